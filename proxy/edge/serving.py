"""The task of a client's connection: it serves all of its requests, one after the other.

One for all of them, for starting a task costs as much as routing a request.
"""

from __future__ import annotations

import asyncio

from proxy.edge.door import Door
from proxy.flow.request import Reply, Request


class Serving:
    """Owns one connection's task, once it has had its first request."""

    __slots__ = ("_door", "_finished", "_next", "_task", "_waiter")

    def __init__(self, door: Door) -> None:
        self._door = door
        self._finished = False
        self._task: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[tuple[Request, Reply]] | None = None
        self._next: tuple[Request, Reply] | None = None

    def start(self, request: Request, reply: Reply) -> None:
        """Serves the next request; only when the one before has been answered."""
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            waiter.set_result((request, reply))
        elif self._task is None:
            self._task = self._door.spawn(self._serve_all(request, reply))
        else:
            self._next = (request, reply)

    async def _serve_all(self, request: Request, reply: Reply) -> None:
        serve = self._door.corridor.serve
        while True:
            await serve(request, reply)
            if self._finished:
                return
            if self._next is None:
                self._waiter = self._door.loop.create_future()
                request, reply = await self._waiter
            else:
                request, reply = self._next
                self._next = None

    def finish(self) -> None:
        """No more requests will come: the task ends, at once if it only waits for one."""
        self._finished = True
        if self._waiter is not None:
            self._waiter.cancel()
            self._waiter = None

    def cancel(self) -> None:
        """The client has left: so does its request."""
        if self._task is not None:
            self._task.cancel()
