"""A stop string that began before the seam: no engine can see it, for each knows one part only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stop:
    """A stop string found across the seam."""

    string: str
    kept: int
    """Characters of the text before the seam that are in front of it."""


class StopWatch:
    """Looks for stop strings that begin before the seam and end behind it."""

    def __init__(self, stops: tuple[str, ...], before: str) -> None:
        """`before`: what was shown up to the seam."""
        self._stops = stops
        self._reach = max(map(len, stops), default=1) - 1
        self._tail = before[-self._reach :] if self._reach else ""
        self._skipped = len(before) - len(self._tail)
        self._longest_new = self._reach

    def found(self, new: str) -> Stop | None:
        """The stop string that has come to its end, if one has.

        Args:
            new: all of the text behind the seam so far.
        """
        if not self._tail:
            return None
        joined = self._tail + new[: self._longest_new]
        for stop in self._stops:
            at = joined.find(stop)
            if 0 <= at < len(self._tail) and at + len(stop) > len(self._tail):
                return Stop(stop, self._skipped + at)
        return None
