"""A circuit breaker: benches a worker, or a prefill -> decode edge, that keeps failing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

FIRST_EPOCH = 0
"""The permit of every breaker that has never opened."""


class Settlement(Enum):
    """What an answer says of whom it came from."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"
    """It proves nothing: the client left, or somebody else was to blame."""


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """When a breaker opens, and for how long."""

    failures: int = 5
    """Failures in a row that open it."""
    open_s: float = 10.0
    """How long nothing goes through; then one trial does."""


class Breaker:
    """Closed, open, or on trial. Whoever sends takes a permit and settles it once.

    The permit is the epoch in which it was taken: an answer to a request from before the
    breaker opened says nothing about the worker as it is now.
    """

    __slots__ = ("_epoch", "_failures", "_on_trial", "_open_until", "_rules", "closed")

    def __init__(self, rules: BreakerRules) -> None:
        self._rules = rules
        self._failures = 0
        self._open_until = 0.0
        self._on_trial = False
        self._epoch = FIRST_EPOCH
        self.closed = True

    @property
    def clean(self) -> bool:
        """Whether it is closed and has no failure to remember."""
        return self.closed and self._failures == 0

    def admits(self, now: float) -> bool:
        """Whether a request may go through. `now`: monotonic seconds."""
        return self.closed or (now >= self._open_until and not self._on_trial)

    def permit(self) -> int:
        """Takes a permit; only after `admits`."""
        if not self.closed:
            self._on_trial = True
        return self._epoch

    def settle(self, permit: int, settlement: Settlement, now: float) -> None:
        """Gives a permit back with what became of it."""
        if permit != self._epoch:
            return
        if settlement is Settlement.SUCCESS:
            self._failures = 0
            if not self.closed:
                self._enter(closed=True)
        elif settlement is Settlement.IGNORED:
            self._on_trial = False
        else:
            self._failures += 1
            if not self.closed or self._failures >= self._rules.failures:
                self._open_until = now + self._rules.open_s
                self._enter(closed=False)

    def _enter(self, *, closed: bool) -> None:
        self.closed = closed
        self._on_trial = False
        self._failures = 0
        self._epoch += 1
