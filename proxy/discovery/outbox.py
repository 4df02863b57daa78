"""The outbox: hands changes on in order, a few at a time, so that thousands do not hold the loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from proxy.clock import Sleep
from proxy.roster import Change

_BATCH = 200
"""why: a receiver's work for one change is some 10 us; a batch stays at a few ms."""


class Outbox:
    """Changes on their way to the receiver; several tasks may send, the order stays that of finding.

    Its size is bounded by the fleet's: one list or one answer of a watch is handed on before the next.
    """

    def __init__(self, receive: Callable[[Sequence[Change]], None], sleep: Sleep) -> None:
        self._receive = receive
        self._sleep = sleep
        self._waiting: deque[Change] = deque()
        self._delivering = False

    async def send(self, changes: Sequence[Change]) -> None:
        """Hand on; returns at once if another task is at it, which then takes these along."""
        self._waiting.extend(changes)
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
                self._receive(batch)
                if self._waiting:
                    await self._sleep(0)
        finally:
            self._delivering = False
