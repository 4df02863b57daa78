"""Ids of 32 hex digits: no two alike, at any process, at the cost of a counter."""

from __future__ import annotations

import random
from itertools import count


class Ids:
    """Makes ids: random digits, which are this process's own, and counted ones behind them."""

    def __init__(self, rng: random.Random) -> None:
        self._own = f"{rng.getrandbits(80):020x}"
        self._next = count(rng.getrandbits(40)).__next__

    def fresh(self) -> str:
        """An id that was never made before."""
        return f"{self._own}{self._next():012x}"
