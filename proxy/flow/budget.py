"""The retry budget: a sick fleet is not stormed by the retries of all that it fails.

Twenty clients whose requests fail five times each ask a hundred times as much of a fleet that
cannot serve the twenty. So retries are a share of the requests of late, plus a floor, without
which a quiet proxy could not retry at all.
"""

from __future__ import annotations

from dataclasses import dataclass

_SLOTS = 10  # why: a request is forgotten a tenth of the window late at most, and counting is one addition


@dataclass(frozen=True, slots=True)
class BudgetRules:
    """How many retries there may be."""

    ratio: float = 0.2
    """Retries for each request of the window."""
    floor_per_s: float = 10.0
    """Retries a second that are always there."""
    window_s: float = 10.0


class RetryBudget:
    """Counts requests and retries over a sliding window. Times are monotonic seconds."""

    __slots__ = (
        "_now_slot",
        "_requests",
        "_requests_in_all",
        "_retries",
        "_retries_in_all",
        "_rules",
        "_slot_s",
    )

    def __init__(self, rules: BudgetRules) -> None:
        self._rules = rules
        self._slot_s = rules.window_s / _SLOTS
        self._now_slot = 0
        self._requests = [0] * _SLOTS
        self._retries = [0] * _SLOTS
        self._requests_in_all = 0
        self._retries_in_all = 0

    def earn(self, now: float) -> None:
        """Counts a request that came."""
        slot = int(now / self._slot_s)
        if slot != self._now_slot:
            self._move_to(slot)
        self._requests[slot % _SLOTS] += 1
        self._requests_in_all += 1

    def left(self, now: float) -> float:
        """How many retries could be made now."""
        self._move_to(int(now / self._slot_s))
        rules = self._rules
        return rules.ratio * self._requests_in_all + rules.floor_per_s * rules.window_s - self._retries_in_all

    def spend(self, now: float) -> bool:
        """Takes one retry out; False: none is left."""
        if self.left(now) < 1.0:
            return False
        self.charge(now)
        return True

    def charge(self, now: float) -> None:
        """Takes one out, whether it is there or not."""
        slot = int(now / self._slot_s)
        self._move_to(slot)
        self._retries[slot % _SLOTS] += 1
        self._retries_in_all += 1

    def _move_to(self, slot: int) -> None:
        """Forgets the slots that have left the window; a time before the last one changes nothing."""
        for passed in range(self._now_slot + 1, min(slot, self._now_slot + _SLOTS) + 1):
            # The place of a slot within the last window is its number's remainder; so is its successor's.
            place = passed % _SLOTS
            self._requests_in_all -= self._requests[place]
            self._retries_in_all -= self._retries[place]
            self._requests[place] = self._retries[place] = 0
        self._now_slot = max(slot, self._now_slot)
