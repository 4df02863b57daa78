"""The settings of failures: what is tried again, who is benched, who is probed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, ValidationInfo, field_validator

from proxy.flow.continuation.tokenizer_file import named
from proxy.settings_section import Section
from proxy.settings_values import (
    Count,
    Kind,
    Listed,
    LowerCase,
    Rate,
    RateAboveZero,
    Seconds,
    Share,
    Text,
    Timeout,
    UrlPath,
)
from proxy.upstream.outcome import Outcome


def _tokenizer(value: str) -> str:
    named(value)
    return value


TokenizerFile = Annotated[str, AfterValidator(_tokenizer), Kind("[MODEL=]PATH", "[MODEL=]PATH")]
Continuation = Annotated[Literal["off", "exact", "on"], LowerCase]


class Retries(Section):
    """What happens to an attempt that failed, and to a stream that broke off."""

    enabled: bool = True
    """Whether a failed attempt is made again at all."""
    attempts: Count = 5
    """Attempts in all, the first included."""
    initial_backoff_s: Seconds = 0.05
    """Upper bound of the wait before the second attempt; doubles with each (full jitter)."""
    max_backoff_s: Seconds = 2.0
    """Upper bound that the wait never passes."""
    never: Listed[Text] = ()
    """Outcomes (docs/errors.md) after which a request is not made again, as `engine_error`."""
    budget_ratio: Share = 0.2
    """Retries for each request of the last 10 s; connections that broke are not counted."""
    budget_floor_per_s: Rate = 10.0
    """Retries a second that are there beside those."""
    redispatch_per_s: RateAboveZero = 500.0
    """Requests a second that go elsewhere from one worker whose connections broke."""
    deaths: Count = 2
    """Workers that may die with a request in hand, before it is taken for what kills them and given up."""
    longest_retry_after_s: Seconds = 10.0
    """Longest Retry-After of a worker that is waited for, where no other worker is left."""
    report_attempts: bool = True
    """Whether answers carry X-PD-Attempts."""
    early_head_s: Seconds | None = None
    """When a streamed answer's head is sent, token or not, and attempts go on; unset: with the first."""
    continuation: Continuation = "on"
    """Which broken streams go on from another pair: all that can, or those whose tokens are all known."""
    tokenizer: Listed[TokenizerFile] = ()
    """Tokenizers (tokenizer.json, or its folder) for engines without /tokenize, of one model or of all."""

    @field_validator("never")
    @classmethod
    def _outcomes(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in list(Outcome):
                raise ValueError(f"{name!r} is no outcome; outcomes are {', '.join(Outcome)}")
        return names

    @field_validator("max_backoff_s")
    @classmethod
    def _above_the_initial(cls, backoff_s: float, info: ValidationInfo) -> float:
        initial_s = info.data.get("initial_backoff_s", 0.0)
        if backoff_s < initial_s:
            raise ValueError(f"is below retries.initial_backoff_s ({initial_s:g})")
        return backoff_s


class Breaker(Section):
    """When a failing worker, or a failing edge between a prefill and a decode, is benched."""

    enabled: bool = True
    """Whether failures of requests bench anybody at all."""
    failures: Count = 5
    """Failures in a row of a worker's own (connections, 5xx) that bench it."""
    open_s: Timeout = 10.0
    """How long a worker is benched before one request tries it."""
    edge_open_s: Timeout = 1.0
    """The same for an edge; doubles with each try that fails."""
    edge_open_max_s: Timeout = 30.0
    """Longest time that an edge is benched between two tries."""
    window_s: Timeout = 60.0
    """How far back failure rates are compared with those of the rest of the fleet."""
    least_requests: Count = 8
    """Requests in the window below which nobody is judged by a rate."""

    @field_validator("edge_open_max_s")
    @classmethod
    def _above_the_first(cls, longest_s: float, info: ValidationInfo) -> float:
        first_s = info.data.get("edge_open_s", 0.0)
        if longest_s < first_s:
            raise ValueError(f"is below breaker.edge_open_s ({first_s:g})")
        return longest_s


class Health(Section):
    """The probes."""

    interval_s: Timeout = 5.0
    """Between two probes of a worker."""
    timeout_s: Timeout = 5.0
    """For a probe's answer."""
    failures: Count = 3
    """Failed probes in a row that take a worker out."""
    successes: Count = 1
    """Good probes in a row that bring it back."""
    path: UrlPath | None = None
    """Path that is probed; unset: the cheapest that the worker's engine version has."""

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        if path is not None and not path.startswith("/"):
            raise ValueError("does not start with /")
        return path
