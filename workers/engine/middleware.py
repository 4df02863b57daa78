"""What every request passes: the key, the note of who came, and the faults that strike before any route."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from proxy.clock import Clock
from workers.engine.config import EngineConfig
from workers.engine.faults import DATA_ROUTES, Fault, Faults
from workers.engine.recorder import SEEN, Recorder
from workers.engine.wire import FAULT, HEADERS, StreamOver, error_object, hang, plain, reset

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_OPEN_PATHS = ("/health", "/metrics", "/simulate/", "/ping", "/ready")
_MAX_BODY_BYTES = 1 << 30
_MESSAGES = {503: "The request queue is full.", 429: "Too many requests.", 400: "Invalid request"}


def application(
    config: EngineConfig, faults: Faults, recorder: Recorder, clock: Clock, die: Callable[[], None]
) -> web.Application:
    """An application without routes yet."""

    @web.middleware
    async def tell_missing(request: web.Request, handler: Handler) -> web.StreamResponse:
        """FastAPI's bodies for what is not there."""
        try:
            return await handler(request)
        except StreamOver as over:
            return over.response
        except web.HTTPNotFound:
            return plain({"detail": "Not Found"}, 404)
        except web.HTTPMethodNotAllowed:
            return plain({"detail": "Method Not Allowed"}, 405)

    @web.middleware
    async def check_key(request: web.Request, handler: Handler) -> web.StreamResponse:
        guarded = config.api_key is not None and not request.path.startswith(_OPEN_PATHS)
        if guarded and request.headers.get("Authorization") != f"Bearer {config.api_key}":
            return plain({"error": "Unauthorized"}, 401)
        return await handler(request)

    @web.middleware
    async def draw_fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in DATA_ROUTES:
            request[SEEN] = recorder.arrived(request, clock.time())
        fault = faults.pick(request.path)
        if fault is not None:
            request[FAULT] = fault
            answer = await _strike(request, fault, die)
            if answer is not None:
                return answer
        return await handler(request)

    return web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[tell_missing, check_key, draw_fault])


async def _strike(request: web.Request, fault: Fault, die: Callable[[], None]) -> web.StreamResponse | None:
    """Faults before the head; None lets the route go on, with the fault in mind."""
    if fault.kind == "hang" and fault.before_head:
        await hang()
    if fault.kind == "reset" and not fault.after_bytes:
        await reset(request)
    if fault.kind == "die" and fault.before_head:
        die()
        await hang()
    if fault.kind == "empty":
        await request.read()
        return web.Response(headers=HEADERS)
    if fault.kind == "status":
        await request.read()
        status = fault.status or 500
        message = fault.message or _MESSAGES.get(status, "Internal Server Error")
        return plain(error_object(message, str(status), status), status)
    return None
