"""Leaving without losing a request: the order in which a proxy ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

import structlog

from proxy.clock import Clock
from proxy.edge.door import Door

log = structlog.get_logger("proxy")
_LOOK_S = 0.05
_QUIET_S = 1.0
"""A connection idle for so long, after every answer told its client to go elsewhere, is closed."""


class Leaving:
    """SIGTERM and SIGINT begin it; a second one hurries it.

    1. Readiness says no, and every answer is its connection's last: a lame duck, that still
       accepts, for load balancers take a moment to look elsewhere.
    2. No more connections are accepted.
    3. What is on its way finishes, within a limit.
    """

    def __init__(self, door: Door, lame_duck_s: float, drain_s: float, clock: Clock) -> None:
        self._door = door
        self._lame_duck_s = lame_duck_s
        self._drain_s = drain_s
        self._quiet_s = min(lame_duck_s, _QUIET_S)
        self._now = clock.monotonic
        self._begin = asyncio.Event()
        self._hurry = asyncio.Event()

    @property
    def begun(self) -> bool:
        """Whether this proxy is about to end."""
        return self._begin.is_set()

    def listen_to_signals(self) -> None:
        """Handlers are installed explicitly: a script's background job inherits SIGINT ignored."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.begin, signal.Signals(number).name)

    def begin(self, why: str) -> None:
        """Begins to leave; the second call hurries."""
        if self._begin.is_set():
            log.warning("told to end twice: live requests are cut", signal=why)
            self._hurry.set()
        else:
            log.info("leaving", signal=why, busy=self._door.busy)
            self._door.leaving = True
            self._begin.set()

    async def see_off(self, servers: Sequence[asyncio.Server]) -> None:
        """Waits to be told to leave, and leaves; what is still on its way in the end is cut."""
        await self._begin.wait()
        await self._pause(self._lame_duck_s)
        for server in servers:
            server.close()
        self._door.close_idle(self._quiet_s)
        deadline = self._now() + self._drain_s
        while self._door.connections and self._now() < deadline and not self._hurry.is_set():
            await self._pause(_LOOK_S)
            self._door.close_idle(self._quiet_s)
        log.info("left", cut=self._door.busy)
        self._door.cut_all()

    async def _pause(self, delay_s: float) -> None:
        try:
            async with asyncio.timeout(delay_s):
                await self._hurry.wait()
        except TimeoutError:
            pass
