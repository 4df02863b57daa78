"""Requests that wait, with no worker at work on them: they too end at their deadline, or when told to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from proxy.clock import Clock
from proxy.flow.trail import Trail
from proxy.upstream.outcome import ABORTED, Failure, Outcome

_Found = TypeVar("_Found")
_TOO_LATE = Failure(Outcome.DEADLINE, "no worker had a place for it before its deadline", 504)


class Waits:
    """Owns the set of those who wait for a place, or between two attempts."""

    def __init__(self, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self._now = clock.monotonic
        self._loop = loop
        self._open: dict[asyncio.Timeout, Trail] = {}

    async def until(
        self, what: Callable[[], Awaitable[_Found]], trail: Trail, deadline: float
    ) -> _Found | Failure:
        """Waits for `what`, which raises no TimeoutError of its own; a Failure if it was cut short.

        Args:
            what: what to wait for.
            trail: whose wait it is.
            deadline: monotonic seconds; infinite: none.
        """
        if trail.aborted:
            return ABORTED
        limit_s = None if deadline == float("inf") else deadline - self._now()
        try:
            async with asyncio.timeout(limit_s) as limit:
                self._open[limit] = trail
                try:
                    return await what()
                finally:
                    self._open.pop(limit, None)
        except TimeoutError:
            return ABORTED if trail.aborted else _TOO_LATE

    def abort(self, wanted: Callable[[Trail], bool]) -> int:
        """Cuts waits short.

        Args:
            wanted: says of a trail whether its waits end.

        Returns:
            How many did.
        """
        found = [(limit, trail) for limit, trail in self._open.items() if wanted(trail)]
        for limit, trail in found:
            trail.aborted = True
            del self._open[limit]
            limit.reschedule(self._loop.time())
        return len(found)
