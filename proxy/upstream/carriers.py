"""The connections to all workers: idle ones kept for a moment, new ones opened within a time."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from proxy.errors import UpstreamFailure
from proxy.roster import Worker
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.lost_host import notice_lost_host

_THERE_S = 0.5  # why: a kernel that is there answers within a round trip, whatever its processes do


class ConnectFailed(UpstreamFailure):
    """A worker took no connection: nothing of the request has reached it."""

    code = "connect_failed"


@dataclass(frozen=True, slots=True)
class CarrierRules:
    """How long to wait for a connection, and how long to keep one."""

    connect_s: float = 5.0
    idle_reuse_s: float = 3.0
    """uvicorn closes after 5 s; a reuse close to that races it."""
    max_idle_per_worker: int = 512


class _Lane:
    """The connections to one address; the idle ones, the freshest last."""

    __slots__ = ("connecting", "host", "host_line", "idle", "loop", "open", "port", "rules", "tls")

    def __init__(self, worker: Worker, rules: CarrierRules, loop: asyncio.AbstractEventLoop) -> None:
        self.host = worker.host
        self.port = worker.port
        self.host_line = _host_line(worker)
        self.tls = ssl.create_default_context() if worker.url.startswith("https:") else None
        self.idle: list[UpstreamConnection] = []
        self.open = 0
        self.connecting = 0
        self.rules = rules
        self.loop = loop

    def freshest(self, oldest: float) -> UpstreamConnection | None:
        """Takes an idle connection that became idle after `oldest`; closes older ones."""
        while self.idle:
            connection = self.idle.pop()
            if connection.idle_since >= oldest and not connection.transport.is_closing():
                return connection
            connection.abort()
        return None

    async def connect(self) -> UpstreamConnection:
        """Opens a connection."""
        self.connecting += 1
        try:
            async with asyncio.timeout(self.rules.connect_s):
                _, connection = await self.loop.create_connection(
                    lambda: UpstreamConnection(self), self.host, self.port, ssl=self.tls
                )
        finally:
            self.connecting -= 1
        notice_lost_host(connection.transport)
        return connection

    def on_made(self, connection: UpstreamConnection) -> None:
        """Counted here, for who waits for it may be cancelled in this very moment."""
        self.open += 1

    def on_idle(self, connection: UpstreamConnection) -> None:
        """Keeps it, unless there are enough."""
        connection.idle_since = self.loop.time()
        if len(self.idle) < self.rules.max_idle_per_worker:
            self.idle.append(connection)
        else:
            connection.abort()

    def on_lost(self, connection: UpstreamConnection) -> None:
        """Forgets it."""
        self.open -= 1
        if connection.leg is None and connection in self.idle:
            self.idle.remove(connection)

    def close_idle(self, oldest: float) -> None:
        """Closes what became idle before `oldest`."""
        stale = [connection for connection in self.idle if connection.idle_since < oldest]
        if stale:
            self.idle = [connection for connection in self.idle if connection.idle_since >= oldest]
            for connection in stale:
                connection.abort()


def _host_line(worker: Worker) -> bytes:
    host = worker.host
    if ":" in host:
        host = f"[{host}]"
    return b"Host: %b:%d\r\n" % (host.encode(), worker.port)


class Carriers:
    """Sole owner of the connections to workers."""

    def __init__(
        self,
        rules: CarrierRules,
        loop: asyncio.AbstractEventLoop,
        on_connect: Callable[[Worker, bool], None] = lambda worker, ok: None,
    ) -> None:
        """Takes also who is told of each connection opened (True) and each that failed (False)."""
        self._rules = rules
        self._on_connect = on_connect
        self._loop = loop
        self._lanes: dict[str, _Lane] = {}
        self.on_cut: Callable[[Worker, str], None] = lambda worker, rid: None
        """Told of a leg that is ended before its time: whose, and its rid."""

    @property
    def open(self) -> int:
        """Connections open now, busy and idle."""
        return sum(lane.open for lane in self._lanes.values())

    @property
    def idle(self) -> int:
        """Connections kept for the next request."""
        return sum(len(lane.idle) for lane in self._lanes.values())

    def open_to(self, worker: Worker) -> int:
        """Connections open to a worker, busy and idle."""
        lane = self._lanes.get(worker.url)
        return 0 if lane is None else lane.open

    def reuse(self, worker: Worker) -> UpstreamConnection | None:
        """An idle connection that is young enough, or None."""
        lane = self._lanes.get(worker.url)
        if lane is None or not lane.idle:
            return None
        connection = lane.idle[-1]
        oldest = self._loop.time() - self._rules.idle_reuse_s
        if connection.idle_since >= oldest and not connection.transport.is_closing():
            return lane.idle.pop()
        return lane.freshest(oldest)

    async def connect(self, worker: Worker) -> UpstreamConnection:
        """Opens a connection.

        Raises:
            ConnectFailed: refused, unreachable, or not within `connect_s`.
        """
        lane = self._lanes.get(worker.url)
        if lane is None:
            lane = self._lanes[worker.url] = _Lane(worker, self._rules, self._loop)
        try:
            connection = await lane.connect()
        except (OSError, TimeoutError) as error:
            self._on_connect(worker, False)
            reason = str(error) or f"no answer within {self._rules.connect_s:g} s"
            raise ConnectFailed(f"cannot connect to {worker.role} {worker.worker_id}: {reason}") from None
        self._on_connect(worker, True)
        return connection

    async def is_there(self, worker: Worker) -> bool:
        """Whether a worker takes a connection at once; the connection is kept for the next request."""
        try:
            async with asyncio.timeout(_THERE_S):
                connection = await self.connect(worker)
        except (ConnectFailed, TimeoutError):
            return False
        self._lanes[worker.url].on_idle(connection)
        return True

    def distrust(self, worker: Worker) -> None:
        """Closes the idle connections to a worker: one of them was closed at its other end."""
        lane = self._lanes.get(worker.url)
        if lane is not None:
            lane.close_idle(float("inf"))

    def sweep(self, now: float) -> None:
        """Closes what has been idle for too long; forgets addresses with no connection."""
        oldest = self._loop.time() - self._rules.idle_reuse_s
        for url, lane in list(self._lanes.items()):
            lane.close_idle(oldest)
            if not lane.open and not lane.connecting:
                del self._lanes[url]

    def close(self) -> None:
        """Closes every idle connection."""
        for lane in self._lanes.values():
            lane.close_idle(float("inf"))
