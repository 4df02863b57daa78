"""The proxy for tests, in this process: its objects can be looked into, its sockets are real.

async with start_engine("prefill") as p, start_engine("decode") as d, start_proxy([p], [d]) as proxy:
async with proxy.http.post("/generate", json={...}) as answer: ...
"""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from proxy.app import Service
from proxy.clock import SystemClock
from proxy.roster import Change
from proxy.settings import Settings
from proxy.telemetry.logs import RequestLog
from tests.support.engines import SimEngine

START_S = 20.0
REST_S = 3.0
"""How soon nothing may be left on any engine: each has been told to abort what was not ended."""


class Proxy:
    """A running proxy."""

    def __init__(self, service: Service, http: aiohttp.ClientSession, log: io.StringIO) -> None:
        self._log = log
        self.service = service
        self.http = http
        self.port = service.ports[0]
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log lines of the requests so far."""
        return [json.loads(line) for line in self._log.getvalue().splitlines()]

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A bare connection, for tests about bytes."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def says(self, request: bytes, limit_s: float = 10.0) -> bytes:
        """Sends bytes and reads until the proxy closes."""
        reader, writer = await self.connect()
        try:
            writer.write(request)
            return await asyncio.wait_for(reader.read(), limit_s)
        finally:
            writer.close()

    @property
    def idle(self) -> bool:
        """Whether all books are at zero: no request, no hold, no byte held, nobody waiting."""
        service = self.service
        return (
            service.corridor.in_flight == 0
            and service.admission.waiting == 0
            and service.ledger.held_bytes == 0
            and not service.carriage.live
            and all(member.in_flight == 0 for member in service.pool.members())
        )

    def books(self) -> str:
        """The books, for a failed assertion."""
        service = self.service
        return (
            f"in flight {service.corridor.in_flight}, waiting {service.admission.waiting}, "
            f"held {service.ledger.held_bytes} bytes, live {list(service.carriage.live)}, "
            f"workers {[(m.worker.worker_id, m.in_flight) for m in service.pool.members()]}"
        )


async def eventually(what: Any, limit_s: float = 10.0, told: Any = None) -> None:
    """Waits until `what()` (or what it resolves to) is true."""
    deadline = time.monotonic() + limit_s
    while True:
        found = what()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < deadline, told() if told else f"not within {limit_s} s"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def start_proxy(
    prefills: Iterable[SimEngine] = (),
    decodes: Iterable[SimEngine] = (),
    **sections: Mapping[str, Any],
) -> AsyncIterator[Proxy]:
    """Starts a proxy in front of engines; at the end its books are at zero, and no engine runs anything.

    Args:
        prefills: known to it at once, with all that they would tell the registry.
        decodes: likewise.
        sections: of the settings, as `upstream={"connect_s": 1}`.
    """
    engines = [*prefills, *decodes]
    merged = {"server": {"lame_duck_s": 0, "drain_s": 5}, **sections}
    merged["server"] = {"host": "127.0.0.1", "port": 0, **merged["server"]}
    log = io.StringIO()
    request_log = RequestLog(True, False, log, SystemClock())
    service = Service(Settings(**merged), request_log)  # type: ignore[arg-type]
    service.pool.apply([Change(one.worker.worker_id, one.worker) for one in engines])
    async with asyncio.TaskGroup() as group:
        running = group.create_task(service.run())
        try:
            await eventually(lambda: service.ports or running.done(), START_S)
            async with aiohttp.ClientSession(f"http://127.0.0.1:{service.ports[0]}") as http:
                proxy = Proxy(service, http, log)
                yield proxy
                await eventually(lambda: proxy.idle, told=proxy.books)
                for engine in engines:
                    await eventually(lambda engine=engine: _rests(engine), REST_S)
        finally:
            service.leaving.begin("test over")
            await running
            await service.close()


_COUNTS = ("live", "running", "waiting", "queued", "rooms_open", "kv_handshaking", "kv_receiving")


async def _rests(engine: SimEngine) -> bool:
    state = await engine.state()
    return not any(state.get(count) for count in _COUNTS)
