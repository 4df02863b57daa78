"""Tells workers to abort what was ended before its time: promptly, but never in a storm.

Closing a connection ends a request too, and is never delayed; but SGLang looks only every few
seconds whether a connection has been closed, and a prefill or a decode that waits for its partner
holds memory for as long. Bursts of aborts have deadlocked prefills, hence the rate.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from proxy.clock import Clock, Sleep
from proxy.errors import UpstreamFailure
from proxy.roster import Worker
from proxy.upstream.inquiries import Inquiries, Refused

_SAVED_UP_S = 0.25
"""How much of its rate a worker that was told nothing for a while may be told at once."""
_MOST_LINES = 4096


@dataclass(frozen=True, slots=True)
class AborterRules:
    """How fast, and how long it is tried."""

    per_s: float = 200.0
    """For each worker; a quarter of it goes at once."""
    queue: int = 4096
    """For each worker; the oldest is dropped beyond."""
    at_once: int = 16
    """For each worker: asked and not yet answered."""
    answer_s: float = 1.0
    """For one answer."""
    tries: int = 3
    again_s: float = 0.2
    """Between two tries, doubling."""
    deadline_s: float = 5.0
    """After so long the closed connection has been noticed anyway."""


class _Told(NamedTuple):
    rid: str
    at: float
    """Monotonic seconds."""


class _Line:
    """What one worker is still to be told."""

    __slots__ = ("asked", "emptied", "next_at", "rids", "worker")

    def __init__(self, worker: Worker, at_once: int) -> None:
        self.worker = worker
        self.rids: deque[_Told] = deque()
        self.asked = asyncio.Semaphore(at_once)
        self.emptied = False
        """Whether a task is at it, or about to be."""
        self.next_at = float("-inf")
        """Monotonic seconds: when the rate allows another, were nothing saved up."""


class Aborter:
    """Owns a queue for each worker, and the tasks that empty them."""

    def __init__(
        self,
        rules: AborterRules,
        inquiries: Inquiries,
        results: dict[str, int],
        clock: Clock,
        sleep: Sleep,
    ) -> None:
        """Makes one.

        Args:
            rules: how fast, and for how long.
            inquiries: asks the workers.
            results: where the ends of aborts are counted: sent (a worker has taken it), failed (no try was
                answered, or it came too late), dropped (the oldest of a full queue).
            clock: time.
            sleep: waits.
        """
        self._rules = rules
        self._inquiries = inquiries
        self._now = clock.monotonic
        self._sleep = sleep
        self._lines: dict[str, _Line] = {}
        self._to_empty: list[_Line] = []
        self._wake = asyncio.Event()
        self._results = results

    @property
    def waiting(self) -> int:
        """Aborts not sent yet."""
        return sum(len(line.rids) for line in self._lines.values())

    def tell(self, worker: Worker, rid: str) -> None:
        """Has a worker abort the request `rid`, soon. Never waits, never raises."""
        line = self._lines.get(worker.url) or self._new_line(worker)
        if len(line.rids) >= self._rules.queue:
            line.rids.popleft()
            self._results["dropped"] += 1
        line.rids.append(_Told(rid, self._now()))
        if not line.emptied:
            self._have_emptied(line)

    def _new_line(self, worker: Worker) -> _Line:
        if len(self._lines) >= _MOST_LINES:
            self._lines = {url: line for url, line in self._lines.items() if line.emptied}
        line = self._lines[worker.url] = _Line(worker, self._rules.at_once)
        return line

    def _have_emptied(self, line: _Line) -> None:
        line.emptied = True
        self._to_empty.append(line)
        self._wake.set()

    async def run(self) -> None:
        """Sends, for ever."""
        # After a fault of ours nobody is at them any more.
        self._to_empty = [line for line in self._lines.values() if line.emptied]
        async with asyncio.TaskGroup() as group:
            while True:
                lines, self._to_empty = self._to_empty, []
                for line in lines:
                    group.create_task(self._empty(line, group))
                self._wake.clear()
                await self._wake.wait()

    async def _empty(self, line: _Line, group: asyncio.TaskGroup) -> None:
        while line.rids:
            line.next_at = max(line.next_at, self._now() - _SAVED_UP_S) + 1.0 / self._rules.per_s
            wait_s = line.next_at - self._now()
            if wait_s > 0:
                await self._sleep(wait_s)
            await line.asked.acquire()
            group.create_task(self._send(line, line.rids.popleft()))
        line.emptied = False

    async def _send(self, line: _Line, told: _Told) -> None:
        try:
            self._results["sent" if await self._ask(line.worker, told) else "failed"] += 1
        finally:
            line.asked.release()

    async def _ask(self, worker: Worker, told: _Told) -> bool:
        rules = self._rules
        for number in range(rules.tries):
            left_s = told.at + rules.deadline_s - self._now()
            if left_s <= 0:
                return False
            try:
                answer = await self._inquiries.ask(
                    worker, "POST", "/abort_request", min(left_s, rules.answer_s), body={"rid": told.rid}
                )
                if answer.status < 500:
                    return answer.ok
            except Refused:
                return False  # nobody is there: neither is the request
            except UpstreamFailure:
                pass
            if number + 1 < rules.tries:
                await self._sleep(rules.again_s * 2**number)
        return False
