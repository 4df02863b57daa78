"""Who is chosen among those who may be: one method a policy, one dict to find it in."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol

from proxy.routing.member import Member


class Policy(Protocol):
    """Chooses a worker."""

    def pick(self, candidates: Sequence[Member], now: float) -> Member:
        """One of `candidates`, of which there is at least one. `now`: monotonic seconds."""
        ...


class RoundRobin:
    """In turn; one with a smaller share lets some of its turns pass."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._turn = 0

    def pick(self, candidates: Sequence[Member], now: float) -> Member:
        """The next in turn."""
        # No choice is no turn: else every second request with one decode only would rob another of its.
        if len(candidates) == 1:
            return candidates[0]
        for _ in candidates:
            self._turn += 1
            member = candidates[self._turn % len(candidates)]
            share = member.share(now)
            if share >= 1.0 or self._rng.random() < share:
                return member
        return candidates[self._turn % len(candidates)]


class Random:
    """By chance, in proportion to the shares."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def pick(self, candidates: Sequence[Member], now: float) -> Member:
        """Anyone."""
        return self._rng.choices(candidates, [member.share(now) for member in candidates])[0]


class LeastLoaded:
    """The one with the fewest requests in flight for its share; equals in turn."""

    def __init__(self, rng: random.Random) -> None:
        self._turn = 0

    def pick(self, candidates: Sequence[Member], now: float) -> Member:
        """The least loaded."""
        if len(candidates) == 1:
            return candidates[0]
        self._turn = start = (self._turn + 1) % len(candidates)
        best, least = candidates[start], candidates[start].load(now)
        for offset in range(1, len(candidates)):
            member = candidates[start - offset]
            load = member.load(now)
            if load < least:
                best, least = member, load
        return best


class PowerOfTwo:
    """The less loaded of two drawn by chance: nearly as even as least_loaded, whatever the fleet's size."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def pick(self, candidates: Sequence[Member], now: float) -> Member:
        """The better of two."""
        if len(candidates) == 1:
            return candidates[0]
        one, other = self._rng.sample(candidates, 2)
        return one if one.load(now) <= other.load(now) else other


POLICIES: dict[str, Callable[[random.Random], Policy]] = {
    "round_robin": RoundRobin,
    "random": Random,
    "least_loaded": LeastLoaded,
    "power_of_two": PowerOfTwo,
}
