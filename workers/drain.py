"""Leaving: who may ask for it, and how long it is waited until nothing runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum

import structlog

from proxy.clock import Clock, Sleep
from workers.engine_api import Load, Silent

log = structlog.get_logger("pd-worker")

_LOOK_S = 0.25


class Drained(StrEnum):
    """How a drain ended."""

    IDLE = "idle"
    """Nothing ran any more."""
    CUT = "cut"
    """The limit was reached."""
    HURRIED = "hurried"
    """Somebody asked twice."""


class Leaving:
    """Somebody wants the worker to end: by a signal, by a wish in the registry, or over HTTP.

    Asked once, it drains; asked by a signal again, it hurries. There is no way back.
    """

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.hurried = asyncio.Event()
        self.why: str | None = None

    def signalled(self, name: str) -> None:
        """A signal came: the first begins, every later one hurries."""
        if self.begun.is_set():
            log.warning("told to end twice: what runs is cut", by=name)
            self.hurried.set()
        self.begin(name)

    def wished(self, wished: bool) -> None:
        """An operator's wish in the registry has come (or gone, which changes nothing)."""
        if wished:
            self.begin("wish in the registry")

    def begin(self, why: str) -> None:
        """Begins to leave, unless it has begun."""
        if not self.begun.is_set():
            log.info("leaving", by=why)
            self.why = why
            self.begun.set()


async def until_idle(
    load: Callable[[], Awaitable[Load | None]],
    *,
    settle_s: float,
    limit_s: float,
    hurried: asyncio.Event,
    clock: Clock,
    sleep: Sleep,
) -> Drained:
    """Waits until the engine has said for `settle_s` on end that nothing runs.

    An engine that does not say is not idle: unknown is never zero.

    Args:
        load: reads it.
        settle_s: long enough that every proxy has heard of the draining, and sends nothing more.
        limit_s: gives up after so long.
        hurried: gives up at once.
        clock: time.
        sleep: waiting.
    """
    began_s = idle_since_s = clock.monotonic()
    while not hurried.is_set():
        try:
            known = await load()
        except Silent:
            known = None
        now_s = clock.monotonic()
        if known is None or known.busy:
            idle_since_s = now_s
        elif now_s - idle_since_s >= settle_s:
            return Drained.IDLE
        if now_s - began_s >= limit_s:
            return Drained.CUT
        await sleep(_LOOK_S)
    return Drained.HURRIED
