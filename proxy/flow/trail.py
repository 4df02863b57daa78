"""What a request left behind on its way: for its log line and its metrics."""

from __future__ import annotations

import msgspec

from proxy.upstream.outcome import Failure, Outcome

_ONE_ATTEMPT = b"X-PD-Attempts: 1\r\n"


class Trail(msgspec.Struct):
    """Mutable while the request runs; one a request, shared by its branches."""

    received_at: float
    """Monotonic seconds, as all times here."""
    attempts: int = 0
    admitted_at: float | None = None
    first_token_at: float | None = None
    prefill: str | None = None
    """Worker ids of the last attempt."""
    decode: str | None = None
    rids: list[str] = []
    """One for each attempt, the same on both legs."""
    room: int | None = None
    continued: list[str] = []
    """What became of each break of a stream."""
    failures: list[Failure] = []
    refusal: str | None = None
    """Why it was turned away, where no attempt failed."""
    outcome: Outcome = Outcome.INTERNAL
    aborted: bool = False
    """Whether its client has ended it by /abort_request: no attempt begins any more."""

    def attempts_line(self) -> bytes:
        """The header line that tells a client how many attempts its answer took."""
        return _ONE_ATTEMPT if self.attempts == 1 else b"X-PD-Attempts: %d\r\n" % self.attempts

    @property
    def told(self) -> str | None:
        """What went wrong, in one line; None if nothing did."""
        if not self.failures:
            return self.refusal
        return "; ".join(f"{one.outcome.value}: {one.message[:200]}" for one in self.failures)
