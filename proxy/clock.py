"""Time as an argument: the only module that asks the operating system what time it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

Sleep = Callable[[float], Awaitable[None]]
"""Waits for so many seconds; tests pass one that does not wait."""


class Clock(Protocol):
    """Where time comes from."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary origin, never going back: for durations and deadlines."""
        ...

    def time(self) -> float:
        """Seconds since the epoch: for timestamps that people or other hosts read."""
        ...


class SystemClock:
    """The operating system's clock."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)


async def sleep(delay_s: float) -> None:
    """The real `Sleep`."""
    await asyncio.sleep(delay_s)
