"""Routes that change something: SGLang's own, and /simulate, which is ours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web
from pydantic import ValidationError

from workers.engine.faults import Fault, Faults
from workers.engine.kv import Rooms
from workers.engine.kv_client import KvClient
from workers.engine.prefix_cache import PrefixCache
from workers.engine.recorder import Recorder
from workers.engine.scheduler import Scheduler
from workers.engine.wire import plain

_FLUSHED = (
    "Cache flushed.\nPlease check backend logs for more details. (When there are running or waiting "
    "requests, the operation will not be performed.)\n"
)


class Admin:
    """Aborts, flushes, arms faults, and tells the engine's state."""

    def __init__(
        self,
        scheduler: Scheduler,
        rooms: Rooms,
        kv_client: KvClient,
        cache: PrefixCache,
        faults: Faults,
        recorder: Recorder,
        refuse: Callable[[float], Awaitable[None]],
        is_draining: Callable[[], bool],
    ) -> None:
        """`refuse`: closes the listener for so many seconds."""
        self._scheduler = scheduler
        self._rooms = rooms
        self._kv_client = kv_client
        self._cache = cache
        self._faults = faults
        self._recorder = recorder
        self._refuse = refuse
        self._is_draining = is_draining
        self._aborts: list[dict[str, Any]] = []
        self._profiling = False

    def routes(self) -> list[web.RouteDef]:
        """All of them."""
        return [
            web.post("/abort_request", self._abort),
            *(web.route(method, "/flush_cache", self._flush) for method in ("GET", "POST")),
            *(web.route(method, "/start_profile", self._start_profile) for method in ("GET", "POST")),
            *(web.route(method, "/stop_profile", self._stop_profile) for method in ("GET", "POST")),
            web.get("/simulate/faults", self._list_faults),
            web.post("/simulate/faults", self._arm),
            web.delete("/simulate/faults", self._disarm),
            web.get("/simulate/state", self._state),
            web.delete("/simulate/state", self._forget),
        ]

    def state(self) -> dict[str, Any]:
        """What tests assert on."""
        scheduler, rooms, client = self._scheduler, self._rooms, self._kv_client
        return {
            "live": scheduler.live,
            "running": scheduler.running,
            "waiting": scheduler.live - scheduler.running,
            "queued": scheduler.queued,
            "peak_live": scheduler.peak_live,
            "peak_running": scheduler.peak_running,
            "aborted": scheduler.aborted,
            "rooms_open": rooms.open,
            "kv_handshaking": client.handshaking,
            "kv_receiving": client.receiving,
            "draining": self._is_draining(),
            "profiling": self._profiling,
            "total_requests": self._recorder.total,
            "requests": self._recorder.listing(),
            "aborts": list(self._aborts),
            "faults": self._faults.listing(),
        }

    async def _abort(self, request: web.Request) -> web.Response:
        body = await _json(request)
        rid, everything = str(body.get("rid") or ""), bool(body.get("abort_all"))
        hit = self._scheduler.abort(rid, everything)
        self._aborts = [*self._aborts[-999:], {"rid": rid, "abort_all": everything, "hit": hit}]
        return web.Response()

    async def _flush(self, request: web.Request) -> web.Response:
        """SGLang refuses while requests run."""
        if self._scheduler.live:
            return web.Response(status=400, text="Flush cache failed.\n")
        self._cache.flush()
        return web.Response(text=_FLUSHED)

    async def _start_profile(self, request: web.Request) -> web.Response:
        self._profiling = True
        return web.Response(text="Start profiling.\n")

    async def _stop_profile(self, request: web.Request) -> web.Response:
        self._profiling = False
        return web.Response(text="Stop profiling. This will take some time.\n")

    async def _list_faults(self, request: web.Request) -> web.Response:
        return plain(self._faults.listing())

    async def _arm(self, request: web.Request) -> web.Response:
        """A fault, or a list of them; `seed` beside its fields restarts the dice."""
        body = await _json(request)
        seed = body.pop("seed", None)
        try:
            fault = Fault.model_validate(body)
        except ValidationError as error:
            return plain({"error": str(error)}, 400)
        if fault.kind == "refuse":
            await self._refuse(fault.for_s)
        else:
            self._faults.add(fault, seed)
        return plain(fault.model_dump())

    async def _disarm(self, request: web.Request) -> web.Response:
        self._faults.clear()
        return web.Response()

    async def _state(self, request: web.Request) -> web.Response:
        return plain(self.state())

    async def _forget(self, request: web.Request) -> web.Response:
        self._recorder.forget()
        self._aborts.clear()
        return web.Response()


async def _json(request: web.Request) -> dict[str, Any]:
    raw = await request.read()
    found = msgspec.json.decode(raw) if raw else {}
    return found if isinstance(found, dict) else {}
