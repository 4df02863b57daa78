"""One prompt on its way through an engine: what was asked, and how far it has come."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from workers.engine.faults import Fault
from workers.engine.oracle import EOS_ID, Detokenizer, printable


class BadInput(Exception):
    """The request cannot be served: SGLang's ValueError before the scheduler, always a 400."""


class Failure(Exception):
    """The scheduler gives a request up: a finish reason `abort` with a status.

    Attributes:
        status: HTTP status as SGLang's scheduler sets it; None for a user's own abort.
    """

    def __init__(self, message: str, status: int | None = 500) -> None:
        super().__init__(message)
        self.message = message
        self.status = status

    def finish_reason(self) -> dict[str, Any]:
        """As it stands in `meta_info`."""
        return {"type": "abort", "message": self.message, "status_code": self.status, "err_type": None}


class Aborted(Exception):
    """`/abort_request` hit this job while it waited."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """The sampling parameters that change anything here; temperature and the like do not."""

    max_new_tokens: int = 128
    min_new_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    no_stop_trim: bool = False
    n: int = 1


@dataclass(frozen=True, slots=True)
class LogprobWish:
    """What of log probabilities was asked for."""

    start: int = -1
    """First prompt position that is told; -1: only the last one, without a value."""
    top: int = 0
    text: bool = False


@dataclass(eq=False, slots=True)
class Job:
    """Owned by the handler that answers it; only `abort` is called from elsewhere."""

    rid: str
    ids: list[int]
    sampling: Sampling
    index: int = 0
    room: int | None = None
    bootstrap_host: str | None = None
    bootstrap_port: int | None = None
    wanted_dp_rank: int | None = None
    logprobs: LogprobWish | None = None
    fault: Fault | None = None
    received_at: float = 0.0
    """Seconds since the epoch."""

    output_ids: list[int] = field(default_factory=list)
    text: str = ""
    """All of it, but for an incomplete character at its end."""
    input_logprobs: list[Any] = field(default_factory=list)
    input_top_logprobs: list[Any] = field(default_factory=list)
    output_logprobs: list[Any] = field(default_factory=list)
    output_top_logprobs: list[Any] = field(default_factory=list)
    finish: dict[str, Any] | None = None
    failure: Failure | None = None
    matched_stop: str | int | None = None
    cached_tokens: int = 0
    dp_rank: int | None = None
    started_at: float = 0.0
    prefilled_at: float = 0.0
    first_token_at: float = 0.0
    finished_at: float = 0.0
    aborted: bool = False
    _detokenizer: Detokenizer = field(default_factory=Detokenizer)
    _shown: str = ""
    _settled: int = 0
    _waiter: asyncio.Task[Any] | None = None

    def push(self, token: int) -> None:
        """Adds a token of output, and what it shows."""
        self.output_ids.append(token)
        if token != EOS_ID:
            self.text += self._detokenizer.push(token)

    def show(self) -> None:
        """An event is due: decides what it shows of the text."""
        if self._detokenizer.amid:
            new = printable(self.text[self._settled :])
            self._shown = self.text[: max(len(self._shown), self._settled + len(new))]
        else:
            self._shown = self.text
            self._settled = len(self.text)

    @property
    def shown(self) -> str:
        """What a stream has shown by now: at its end all."""
        return self._shown if self.finish is None else self.text

    def end(self, reason: dict[str, Any]) -> None:
        """No more tokens: shows what was held back."""
        self.text += self._detokenizer.finish()
        self.finish = reason

    def fail(self, failure: Failure) -> None:
        """Ends with `abort`."""
        self.failure = failure
        self.end(failure.finish_reason())

    def abort(self) -> None:
        """Ends the job at its next step, or at once if it waits."""
        self.aborted = True
        if self._waiter is not None:
            self._waiter.cancel()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Around a wait that `abort` may cut short.

        Raises:
            Aborted: it did. A cancellation from outside goes on as itself.
        """
        if self.aborted:
            raise Aborted
        task = asyncio.current_task()
        assert task is not None
        cancelling_before = task.cancelling()
        self._waiter = task
        try:
            yield
        except asyncio.CancelledError:
            if self.aborted and task.uncancel() <= cancelling_before:
                raise Aborted from None
            raise
        finally:
            self._waiter = None
