"""A place for a request that does not get one at once, or has failed before."""

from __future__ import annotations

from proxy.clock import Clock, Sleep
from proxy.flow.admission import Admission
from proxy.flow.avoid import Avoid
from proxy.flow.trail import Trail
from proxy.flow.waits import Waits
from proxy.routing.group import Group
from proxy.routing.placement import Placement
from proxy.routing.pool import Pool
from proxy.telemetry.histogram import Histogram
from proxy.upstream.outcome import ABORTED, Failure


class Seating:
    """Finds places on workers that may be asked now, and waits for them where it must."""

    def __init__(
        self,
        pool: Pool,
        admission: Admission,
        waits: Waits,
        clock: Clock,
        sleep: Sleep,
        queue_wait: Histogram,
        longest_rest_s: float,
    ) -> None:
        """Makes one.

        Args:
            pool: where places come from.
            admission: the queue for them.
            waits: knows who waits.
            clock: time.
            sleep: waits.
            queue_wait: observes how long requests waited in the queue, s.
            longest_rest_s: how long a worker's Retry-After is waited for where no other is left.
        """
        self._pool = pool
        self._admission = admission
        self._waits = waits
        self._now = clock.monotonic
        self._sleep = sleep
        self._queue_wait = queue_wait
        self._longest_rest_s = longest_rest_s

    async def place(
        self, group: Group, avoid: Avoid | None, trail: Trail, deadline: float
    ) -> Placement | Failure:
        """A place, or how the waiting for it ended.

        Args:
            group: whose workers.
            avoid: what earlier attempts taught; None before the first.
            trail: whose place it is.
            deadline: monotonic seconds; infinite: none.

        Raises:
            NoPair: nobody is there to wait for.
            Overloaded: the queue is full, or waiting took too long.
        """
        while True:
            found = await self._seat(group, avoid, trail, deadline)
            if isinstance(found, Failure):
                return found
            if trail.aborted:
                self._leave(found)
                return ABORTED
            rest_s = 0.0 if avoid is None else avoid.rest_s(found.edge, self._now())
            if not rest_s:
                return found
            # There is no other worker, or it would have been chosen: this one said when to come back.
            self._leave(found)
            assert avoid is not None
            assert avoid.last is not None
            if rest_s > self._longest_rest_s:
                return avoid.last
            cut_short = await self._waits.until(lambda: self._sleep(rest_s), trail, deadline)  # noqa: B023
            if isinstance(cut_short, Failure):
                return cut_short

    async def _seat(
        self, group: Group, avoid: Avoid | None, trail: Trail, deadline: float
    ) -> Placement | Failure:
        known = () if avoid is None else avoid
        keep = None if avoid is None else avoid.keep
        if (placement := self._admission.at_once(group, known, keep)) is not None:
            return placement
        came_at = self._now()
        try:
            return await self._waits.until(lambda: self._admission.wait(group, known, keep), trail, deadline)
        finally:
            self._queue_wait.observe(self._now() - came_at)

    def _leave(self, placement: Placement) -> None:
        self._pool.withdraw(placement)
        placement.release()
