"""Workers whose connections break: all that was on one of them goes on elsewhere, but not at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

_MOST = 1024  # workers remembered; why: a fleet of 512 that dies whole


@dataclass(frozen=True, slots=True)
class DeathRules:
    """How fast what a dead worker leaves behind is given to the living."""

    redispatch_per_s: float = 500.0
    """For each dead worker; a tenth of it goes at once."""
    quiet_s: float = 10.0
    """After so long without a broken connection the next one is another death."""


class Turn(NamedTuple):
    """When one of those whom a worker has left behind may go on."""

    wait_s: float
    first: bool
    """Whether it is the first sign of this death."""


class _Death:
    __slots__ = ("last_at", "next_at")

    def __init__(self) -> None:
        self.last_at = 0.0
        self.next_at = float("-inf")


class Deaths:
    """Owns a token bucket for each worker that has died of late."""

    def __init__(self, rules: DeathRules) -> None:
        self._rules = rules
        self._known: dict[str, _Death] = {}

    def turn(self, worker_id: str, now: float) -> Turn:
        """Takes in a connection that broke; says when its request's turn comes. `now`: monotonic s."""
        death = self._known.get(worker_id)
        if death is not None and now - death.last_at > self._rules.quiet_s:
            del self._known[worker_id]
            death = None
        first = death is None
        if death is None:
            if len(self._known) >= _MOST:
                del self._known[next(iter(self._known))]
            death = self._known[worker_id] = _Death()
        death.last_at = now
        between_s = 1.0 / self._rules.redispatch_per_s
        # A tenth of a second's worth may have been saved up.
        death.next_at = max(death.next_at, now - 0.1) + between_s
        return Turn(max(0.0, death.next_at - now), first)
