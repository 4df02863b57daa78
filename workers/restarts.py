"""When a crashed engine is started again, how late, and when no more."""

from __future__ import annotations

import random

_LONGEST_WAIT_S = 60.0


class Restarts:
    """Counts crashes in a row. Pure.

    In a row, not within a window: loading weights may take longer than any window, and an engine that never
    comes up must not be tried for ever.
    """

    def __init__(self, limit: int, forgotten_after_s: float, first_wait_s: float, rng: random.Random) -> None:
        """More than `limit` in a row are too many; a life that served for `forgotten_after_s` ends a row."""
        self._limit = limit
        self._forgotten_after_s = forgotten_after_s
        self._first_wait_s = first_wait_s
        self._rng = rng
        self._in_a_row = 0
        self.count = 0
        """Crashes in all."""

    def crashed(self, served_s: float) -> float | None:
        """Notes a crash of a life that has served for so long (0: it was never ready).

        Returns:
            Seconds to wait before the next start; None: give up.
        """
        self.count += 1
        self._in_a_row = 1 if served_s >= self._forgotten_after_s else self._in_a_row + 1
        if self._in_a_row > self._limit:
            return None
        ceiling_s = min(_LONGEST_WAIT_S, self._first_wait_s * 2 ** min(self._in_a_row - 1, 10))
        return self._rng.uniform(ceiling_s / 2, ceiling_s)
