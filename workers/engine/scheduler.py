"""Slots and the queue before them; who is alive, by request id."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

from workers.engine.jobs import BadInput, Failure, Job


class Scheduler:
    """Sole owner of the slots. A job is live from arrival to its end, running while it holds a slot."""

    def __init__(self, max_running: int, max_queued: int | None, unique_rids: bool) -> None:
        self._max_running = max_running
        self._max_queued = max_queued
        self._unique_rids = unique_rids
        self._live: set[Job] = set()
        self._rids: Counter[str] = Counter()
        self._running: set[Job] = set()
        self._queue: deque[asyncio.Future[None]] = deque()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self.peak_live = 0
        self.peak_running = 0
        self.aborted = 0
        """Jobs that ended before their time: aborted, left by their client, or failed."""

    @property
    def live(self) -> int:
        """Jobs that have not ended."""
        return len(self._live)

    @property
    def running(self) -> int:
        """Jobs that hold a slot."""
        return len(self._running)

    @property
    def queued(self) -> int:
        """Jobs that wait for a slot."""
        return len(self._queue)

    def used_tokens(self) -> int:
        """Tokens whose KV is held."""
        return sum(len(job.ids) + len(job.output_ids) for job in self._running)

    @contextmanager
    def alive(self, jobs: list[Job]) -> Iterator[None]:
        """Holds the jobs of one request as live.

        Raises:
            BadInput: a request id is in use (0.5.23; 0.5.2 mixes the two up, here it serves both).
        """
        rids = [job.rid for job in jobs]
        if self._unique_rids:
            taken = next((rid for rid in rids if self._rids[rid] or rids.count(rid) > 1), None)
            if taken is not None:
                raise BadInput(f"Duplicate request ID detected: {taken}")
        self._live.update(jobs)
        self._quiet.clear()
        self._rids.update(rids)
        self.peak_live = max(self.peak_live, len(self._live))
        try:
            yield
        finally:
            self._live.difference_update(jobs)
            if not self._live:
                self._quiet.set()
            for rid in rids:
                self._rids[rid] -= 1
                if not self._rids[rid]:
                    del self._rids[rid]
            self.aborted += sum(job.finish is None or job.finish["type"] == "abort" for job in jobs)

    async def quiet(self) -> None:
        """Returns when nothing is live; the caller sets the deadline."""
        while self._live:
            await self._quiet.wait()

    async def enter(self, job: Job) -> None:
        """Waits for a slot, first come first served; `leave` gives it back.

        Raises:
            Failure: the queue is full.
            Aborted: the job was, while it waited.
        """
        if len(self._running) >= self._max_running:
            if self._max_queued is not None and len(self._queue) >= self._max_queued:
                raise Failure("The request queue is full.", 503)
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._queue.append(turn)
            try:
                with job.interruptible():
                    await turn
            except BaseException:
                if turn in self._queue:
                    self._queue.remove(turn)
                self._call_next()
                raise
        self._running.add(job)
        self.peak_running = max(self.peak_running, len(self._running))

    def leave(self, job: Job) -> None:
        """Gives the slot back; a job without one has nothing to give."""
        self._running.discard(job)
        self._call_next()

    def _call_next(self) -> None:
        called = len(self._running)
        while self._queue and called < self._max_running:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                called += 1

    def abort(self, rid_prefix: str, everything: bool = False) -> int:
        """Aborts the live jobs whose id begins with `rid_prefix`; an empty prefix alone aborts none.

        Returns:
            How many were hit.
        """
        hit = [job for job in self._live if everything or (rid_prefix and job.rid.startswith(rid_prefix))]
        for job in hit:
            job.abort()
        return len(hit)
