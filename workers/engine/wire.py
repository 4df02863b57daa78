"""Answers on the wire, and the faults that strike there: one HTTP chunk an event, as uvicorn writes it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import NoReturn

from aiohttp import web

from workers.engine.faults import Fault
from workers.engine.meta import encode

HEADERS = {"Server": "uvicorn", "Vary": "Origin"}
DONE = b"[DONE]"
FAULT = web.RequestKey("fault", Fault)
"""The fault that was drawn for the request in hand."""
# why: long enough to be a hang to any client; the client's leaving ends it at once.
_FOR_EVER_S = 3600.0
_RST = struct.pack("ii", 1, 0)


def plain(body: object, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(body=encode(body), status=status, content_type="application/json", headers=HEADERS)


def error_object(message: str, kind: str, status: int) -> dict[str, object]:
    """OpenAI's error, as SGLang's `ErrorResponse` has it."""
    return {"object": "error", "message": message, "type": kind, "param": None, "code": status}


async def hang() -> NoReturn:
    """Until the client leaves: that cancels the handler."""
    await asyncio.sleep(_FOR_EVER_S)
    raise ConnectionResetError("a hang of the simulation has ended")


async def cut(request: web.Request) -> NoReturn:
    """Closes the connection after what was written, without the end of the body."""
    if request.transport is not None:
        request.transport.close()
    await hang()


async def reset(request: web.Request) -> NoReturn:
    """Ends the connection with RST."""
    transport = request.transport
    if transport is not None:
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        transport.abort()
    await hang()


class EventStream:
    """A stream of events; the head leaves with the first, or with `open`."""

    def __init__(self, request: web.Request, fault: Fault | None, die: Callable[[], None]) -> None:
        self._request = request
        self._fault = fault
        self._die = die
        self._response: web.StreamResponse | None = None
        self._lock = asyncio.Lock()
        self._bytes = 0
        self.events = 0

    async def open(self) -> web.StreamResponse:
        """Sends the head, once."""
        if self._response is None:
            self._response = web.StreamResponse(headers=HEADERS)
            self._response.content_type = "text/event-stream"
            self._response.charset = "utf-8"
            self._response.enable_chunked_encoding()
            await self._response.prepare(self._request)
        return self._response

    async def send(self, payload: bytes) -> None:
        """Sends one event."""
        async with self._lock:
            response = await self.open()
            await self._strike()
            self.events += 1
            await self._write(response, b"data: " + payload + b"\n\n")

    async def close(self) -> web.StreamResponse:
        """Sends `[DONE]` and the end of the body."""
        async with self._lock:
            response = await self.open()
            await self._strike()
            await self._write(response, b"data: " + DONE + b"\n\n")
            await response.write_eof()
            return response

    async def truncate(self) -> NoReturn:
        """Ends without an end: what 0.5.2 does when the scheduler fails a request."""
        await self.open()
        await cut(self._request)

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        fault = self._fault
        if fault is not None and fault.kind == "reset" and self._bytes + len(data) > fault.after_bytes:
            await response.write(data[: max(fault.after_bytes - self._bytes, 0)])
            await reset(self._request)
        self._bytes += len(data)
        await response.write(data)

    async def _strike(self) -> None:
        fault = self._fault
        if fault is None or self.events < fault.after_events:
            return
        if fault.kind == "truncate":
            await cut(self._request)
        if fault.kind == "hang":
            await hang()
        if fault.kind == "die":
            self._die()
            await hang()
        if fault.kind == "error_event":
            status = fault.status or 500
            error = error_object(fault.message or "Internal error", str(status), status)
            response = await self.open()
            await response.write(b"data: " + encode({"error": error}) + b"\n\ndata: [DONE]\n\n")
            await response.write_eof()
            raise StreamOver(response)


class StreamOver(Exception):
    """A fault has ended the stream properly; the handler only returns."""

    def __init__(self, response: web.StreamResponse) -> None:
        super().__init__()
        self.response = response


async def whole(
    request: web.Request, fault: Fault | None, body: object, die: Callable[[], None]
) -> web.StreamResponse:
    """A JSON answer in one piece, or as much of it as the fault lets through."""
    if fault is None or fault.kind not in ("truncate", "reset", "hang", "die", "error_event"):
        return plain(body)
    if fault.kind == "error_event":
        status = fault.status or 500
        return plain(error_object(fault.message or "Internal error", str(status), status), status)
    data = encode(body)
    size = fault.after_bytes if fault.kind == "reset" else len(data) // 2
    response = web.StreamResponse(headers=HEADERS)
    response.content_type = "application/json"
    response.content_length = len(data)
    await response.prepare(request)
    await response.write(data[: min(size, len(data) - 1)])
    if fault.kind == "reset":
        await reset(request)
    if fault.kind == "die":
        die()
    if fault.kind == "truncate":
        await cut(request)
    return await hang()
