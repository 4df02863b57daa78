"""How an attempt, or a request, can end: the vocabulary of metrics, logs and retries."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from proxy.roster import Role
from proxy.routing.breaker import Settlement


class Outcome(StrEnum):
    """How it ended."""

    OK = "ok"
    CLIENT_GONE = "client_gone"
    BAD_REQUEST = "bad_request"
    REJECTED = "rejected"
    """A worker's queue is full."""
    KV_TRANSFER = "kv_transfer"
    KV_BOOTSTRAP = "kv_bootstrap"
    TRUNCATED = "truncated"
    """The answer broke off before its first token."""
    TRUNCATED_MIDSTREAM = "truncated_midstream"
    RESET = "reset"
    """The connection went before any byte of an answer."""
    CONNECT = "connect"
    STALE_CONNECTION = "stale_connection"
    """A reused connection was closed before any byte: a race, nobody's failure."""
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"
    STALL = "stall"
    """Too long without a byte in the middle of a stream."""
    EMPTY = "empty"
    ABORTED = "aborted"
    """A client's own /abort_request, before the first token."""
    ABORTED_BY_ENGINE = "aborted_by_engine"
    LENGTH_ZERO = "length_zero"
    """`length` with no token at all: a failure told as success."""
    ENGINE_ERROR = "engine_error"
    DEADLINE = "deadline"
    """The whole of a non-streamed request took too long."""
    NO_PAIR = "no_pair"
    OVERLOADED = "overloaded"
    DRAINING = "draining"
    INTERNAL = "internal"


_FINAL = frozenset([Outcome.BAD_REQUEST, Outcome.DEADLINE, Outcome.ABORTED])
_OF_THE_EDGE = frozenset(
    # 0.5.2 shows a failed transfer as a truncated body, so that too belongs to the edge.
    [Outcome.KV_TRANSFER, Outcome.KV_BOOTSTRAP, Outcome.TRUNCATED, Outcome.FIRST_TOKEN_TIMEOUT]
)
_NOBODYS = frozenset(
    [
        Outcome.BAD_REQUEST,
        Outcome.REJECTED,
        Outcome.STALE_CONNECTION,
        Outcome.DEADLINE,
        Outcome.CLIENT_GONE,
        Outcome.ABORTED,
    ]
)


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that did not work, as one leg told it."""

    outcome: Outcome
    message: str
    status: int = 502
    """What the client is told, should nothing better come."""
    role: Role | None = None
    """Whose leg told it."""
    body: bytes = b""
    """The worker's own JSON, where that is the best thing to show a client."""
    retry_after_s: int | None = None
    """What the client is told of when to come back."""
    told_to_wait_s: int | None = None
    """The worker's own Retry-After."""
    session_dead: bool = False
    """Whether it says that nothing will go over this prefill -> decode edge any more."""

    @property
    def replayable(self) -> bool:
        """Whether another attempt may do better."""
        return self.outcome not in _FINAL

    @property
    def proves_nothing(self) -> bool:
        """Whether nobody is to blame."""
        return self.outcome in _NOBODYS

    @property
    def blamed(self) -> Role | None:
        """Which worker is to blame; None is the edge between the two."""
        return None if self.outcome in _OF_THE_EDGE else self.role

    @property
    def settlement(self) -> Settlement:
        """What the breakers are told."""
        if self.proves_nothing:
            return Settlement.IGNORED
        return Settlement.SEVERED if self.session_dead else Settlement.FAILURE


ABORTED = Failure(Outcome.ABORTED, "aborted by its client, by /abort_request", 499)
