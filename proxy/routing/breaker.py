"""A circuit breaker: benches a worker, or a prefill -> decode edge, until one trial request succeeds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

FIRST_EPOCH = 0
"""The permit of every breaker that has never opened."""


class Settlement(Enum):
    """What an answer says of whom it came from."""

    SUCCESS = "success"
    FAILURE = "failure"
    SEVERED = "severed"
    """A failure that says of itself that nothing goes over this edge any more."""
    IGNORED = "ignored"
    """It proves nothing: the client left, or somebody else was to blame."""


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """What opens a breaker, and for how long. Seconds."""

    enabled: bool = True
    failures: int = 5
    """Failures in a row that are one worker's own and bench it."""
    open_s: float = 10.0
    """How long a worker is benched before one request tries it."""
    edge_open_s: float = 1.0
    """The same for an edge; doubled with each trial that fails."""
    edge_open_max_s: float = 30.0
    window_s: float = 60.0
    """How far back failure rates look, and how long a failure is remembered at all."""
    least_requests: int = 8
    """With fewer in the window there is no rate to judge by."""


class Breaker:
    """Closed, open, or on trial. Whoever sends takes a permit and settles it once.

    A permit is the epoch in which it was taken, or, below zero, a trial's own number: an answer to
    a request from before the breaker opened says nothing about how things are now. A request that
    was sent although the breaker was open (everything was) has an ordinary permit: its success
    closes the breaker, its failure was to be expected and changes nothing.
    """

    __slots__ = (
        "_closed_at",
        "_first_s",
        "_last_s",
        "_longest_s",
        "_memory_s",
        "_open_until",
        "_trial",
        "_trials",
        "bench_s",
        "closed",
        "epoch",
    )

    def __init__(self, first_s: float, longest_s: float, memory_s: float) -> None:
        """Makes a closed one.

        Args:
            first_s: how long it opens for; twice as long after each trial that fails.
            longest_s: but never longer than this.
            memory_s: how long after its closing a new opening is a relapse, which counts like a trial
                that failed: who fails every second request passes every second trial.
        """
        self._first_s = first_s
        self._longest_s = longest_s
        self._memory_s = memory_s
        self._closed_at = float("-inf")
        self._last_s = 0.0
        self._open_until = 0.0
        self.epoch = FIRST_EPOCH
        """How often it has opened or closed: the permit of an ordinary request."""
        self._trial: int | None = None
        self._trials = 0
        self.closed = True
        self.bench_s = 0.0
        """How long the present bench is in all; 0 while closed. The longer, the more trials have failed."""

    def admits(self, now: float) -> bool:
        """Whether a request may go through. `now`: monotonic seconds."""
        return self.closed or (now >= self._open_until and self._trial is None)

    def permit(self, now: float) -> int:
        """Takes a permit; that of the one trial if it is due."""
        if self.closed or not self.admits(now):
            return self.epoch
        self._trials += 1
        self._trial = -self._trials
        return self._trial

    def trusts(self, permit: int) -> bool:
        """Whether it was closed when the permit was taken, and has been ever since."""
        return self.closed and permit == self.epoch

    def open(self, now: float, *, relapse: bool = False) -> None:
        """Nothing goes through from now on, until a trial is due.

        Args:
            now: monotonic seconds.
            relapse: whether to go on from the last bench, if that has ended lately.
        """
        if relapse and now - self._closed_at < self._memory_s:
            self.bench_s = self._last_s
        self.bench_s = min(self._longest_s, self.bench_s * 2) if self.bench_s else self._first_s
        self._open_until = now + self.bench_s
        self._turn(closed=False)

    def settle(self, permit: int, settlement: Settlement, now: float) -> None:
        """Gives a permit back with what became of it; only a breaker that is open cares."""
        on_trial = permit < 0
        if self.closed or permit != (self._trial if on_trial else self.epoch):
            return
        if settlement is Settlement.SUCCESS:
            self._last_s, self.bench_s = self.bench_s, 0.0
            self._closed_at = now
            self._turn(closed=True)
        elif on_trial and settlement is Settlement.IGNORED:
            self._trial = None
        elif on_trial:
            self.open(now)

    def _turn(self, *, closed: bool) -> None:
        self.closed = closed
        self._trial = None
        self.epoch += 1
