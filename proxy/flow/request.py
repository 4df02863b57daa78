"""A request as the corridor sees it: complete, and read as far as routing needs."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

import msgspec

from proxy.errors import PdError
from proxy.upstream.patience import Patience


class Route(StrEnum):
    """The data routes, by the name that metrics and logs use."""

    GENERATE = "generate"
    CHAT_COMPLETIONS = "chat_completions"
    COMPLETIONS = "completions"


class Intake(msgspec.Struct, frozen=True):
    """The few fields of a body that the proxy itself uses."""

    model: str | None
    stream: bool
    rid: str | list[str] | None
    """The client's own request id, one or one for each item of a batch."""
    n: int
    """Answers asked for each prompt."""
    wants_input_logprobs: bool
    """Whether the answer has parts that only prefill knows."""
    zero_tokens: bool
    """Whether so few tokens are asked for, if any, that there may be nothing to show.

    /generate counts its tokens, so there it is none at all; OpenAI's streams do not, and SGLang
    shows no part of a character, which may take four tokens."""
    include_usage: bool
    """Whether an OpenAI stream is to end with a usage chunk."""
    sampling_params: bytes | None
    """/generate only, where n > 1: the member as it came."""


class Request(msgspec.Struct, frozen=True):
    """One request of a client. A struct: a frozen dataclass takes ten times as long to be made."""

    route: Route
    request_line: bytes
    """As it goes on to the workers, with its line's end."""
    headers: bytes
    """Header lines that go on to the workers, each with its line's end."""
    body: bytes
    intake: Intake
    model: str | None
    """What the request names its model by: body first, then header."""
    request_id: str
    received_at: float
    """Monotonic seconds at which its head was complete."""
    patience: Patience | None = None
    """The client's own time limits."""


class Reply(Protocol):
    """Where the answer goes; edge.reply has the one that writes to a client."""

    extra_headers: bytes
    opened: bool
    ended: bool
    paused: bool
    status: int
    bytes_out: int
    takes_chunks: bool
    """Whether `raw` may be used."""
    on_pause: Callable[[], None]
    on_resume: Callable[[], None]

    def whole(self, status_line: bytes, headers: bytes, body: bytes) -> None:
        """Writes a complete answer."""

    def open(self, status_line: bytes, headers: bytes) -> None:
        """Writes the head of an answer whose length is not known."""

    def raw(self, data: bytes) -> None:
        """Writes whole chunks as they came from a worker."""

    def payload(self, data: bytes) -> None:
        """Writes a piece of the body."""

    async def drained(self) -> None:
        """Waits until the client has taken most of what was written."""

    def end(self) -> None:
        """Ends the answer, whole or opened."""

    def fail(self, error: PdError) -> None:
        """Tells of an error, and ends; only while nothing has been written."""

    def break_off(self) -> None:
        """Cuts the connection: the answer cannot be completed, and the client must be able to tell."""
