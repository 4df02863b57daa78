"""The queue before dispatch: first in, first out, bounded in length and in time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from proxy.errors import NoPair, Overloaded
from proxy.routing.group import Group
from proxy.routing.member import Member
from proxy.routing.placement import Placement
from proxy.routing.pool import NO_EDGES, Edge, Pool


@dataclass(frozen=True, slots=True)
class AdmissionRules:
    """How many may wait, and for how long."""

    queue_size: int = 2048
    """Over all models."""
    queue_s: float = 60.0


class _Waiter:
    __slots__ = ("avoid", "keep", "place")

    def __init__(
        self, avoid: Collection[Edge], keep: Member | None, place: asyncio.Future[Placement]
    ) -> None:
        self.avoid = avoid
        self.keep = keep
        self.place = place


class Admission:
    """Gives each request its pair, at once or when a worker below its cap is free."""

    def __init__(self, pool: Pool, rules: AdmissionRules, loop: asyncio.AbstractEventLoop) -> None:
        self._pool = pool
        self._rules = rules
        self._loop = loop
        self._queues: dict[str | None, deque[_Waiter]] = {}
        self.waiting = 0
        pool.on_room = self._serve_queue

    def at_once(
        self, group: Group, avoid: Collection[Edge] = NO_EDGES, keep: Member | None = None
    ) -> Placement | None:
        """A pair if nobody has to be waited for; it counts as busy and must be released.

        Raises:
            NoPair: nobody is there to wait for.
        """
        if self.waiting and self._queues.get(group.model):
            return None
        return self._pool.choose(group, avoid, keep)

    async def wait(
        self, group: Group, avoid: Collection[Edge] = NO_EDGES, keep: Member | None = None
    ) -> Placement:
        """A pair as soon as one is free, in the order of coming.

        Raises:
            NoPair: nobody is there to wait for.
            Overloaded: the queue is full, or waiting took too long.
        """
        rules = self._rules
        if self.waiting >= rules.queue_size:
            raise Overloaded(
                f"all workers are at their caps and {self.waiting} requests wait already (setting "
                "routing.queue_size)",
                retry_after_s=1,
            )
        waiter = _Waiter(avoid, keep, self._loop.create_future())
        queue = self._queues.setdefault(group.model, deque())
        queue.append(waiter)
        self.waiting += 1
        try:
            async with asyncio.timeout(rules.queue_s):
                return await waiter.place
        except BaseException as error:
            # It was given its place and left in the same moment: the place goes to the next.
            if waiter.place.done() and not waiter.place.cancelled() and not waiter.place.exception():
                self._pool.withdraw(waiter.place.result())
                waiter.place.result().release()
            if not isinstance(error, TimeoutError):
                raise
            raise Overloaded(
                f"all workers have been at their caps for {rules.queue_s:g} s (setting routing.queue_s)",
                retry_after_s=1,
            ) from None
        finally:
            self._leave(group.model, waiter)

    def _leave(self, model: str | None, waiter: _Waiter) -> None:
        self.waiting -= 1
        queue = self._queues.get(model)
        if queue is not None:
            if waiter in queue:
                queue.remove(waiter)
            if not queue:
                del self._queues[model]

    def _serve_queue(self, group: Group) -> None:
        queue = self._queues.get(group.model)
        while queue:
            waiter = queue[0]
            if waiter.place.done():
                queue.popleft()
                continue
            try:
                placement = self._pool.choose(group, waiter.avoid, waiter.keep)
            except NoPair as error:
                queue.popleft()
                waiter.place.set_exception(error)
                continue
            if placement is None:
                return
            queue.popleft()
            waiter.place.set_result(placement)
