"""Deadlines by sweeping: one timer looks at everything that waits.

A timer a request would cost more than all other bookkeeping of a small request; deadlines
here are seconds to minutes, so a look every quarter of a second is as good.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from proxy.clock import Sleep

SWEEP_S = 0.25


class Sweepable(Protocol):
    """Something with deadlines of its own."""

    def sweep(self, now: float) -> None:
        """Looks whether a deadline has passed. `now`: monotonic seconds."""


class Sweeper:
    """Owns the set of those who wait; joining and leaving cost one set operation."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self.members: set[Sweepable] = set()
        self.now = monotonic()
        """Monotonic seconds, SWEEP_S old at most: a timestamp for free."""

    def sweep(self) -> None:
        """Looks at everyone once."""
        self.now = self._monotonic()
        for member in tuple(self.members):
            member.sweep(self.now)

    async def run(self, sleep: Sleep) -> None:
        """Sweeps for ever."""
        while True:
            await sleep(SWEEP_S)
            self.sweep()
