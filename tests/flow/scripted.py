"""Both ends of the proxy byte by byte: workers that answer as a test says, and a client that reads frames."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from proxy.roster import Role, Worker
from tests.support.proxies import Proxy, start_proxy

Script = Callable[["Visit"], Awaitable[None]]


@dataclass
class Visit:
    """One request at a scripted worker."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int
    """Of this request at this worker, from 0."""
    connection: int
    """Of the connection that brought it, from 0."""
    head: bytes
    body: bytes

    async def say(self, *pieces: bytes, between_s: float = 0.0) -> None:
        """Writes the pieces, each in a packet of its own where `between_s` is not 0."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            if between_s:
                await asyncio.sleep(between_s)

    def reset(self) -> None:
        """Cuts the connection with an RST where the system can."""
        self.writer.transport.abort()

    async def gone(self, limit_s: float = 10.0) -> None:
        """Waits until the proxy has closed the connection."""
        async with asyncio.timeout(limit_s):
            with suppress(ConnectionError):
                while await self.reader.read(65536):
                    pass


@dataclass
class Scripted:
    """A worker that answers its data requests by a script, and health probes with 200."""

    role: Role
    script: Script
    worker: Worker = field(init=False)
    visits: list[Visit] = field(default_factory=list)
    connections: int = 0
    live: int = 0
    """Data requests whose script runs."""
    aborts: list[bytes] = field(default_factory=list)
    """The bodies of /abort_request."""
    scripts_aborts: bool = False
    """Whether the script answers those too."""
    server: asyncio.Server | None = None
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def die(self) -> None:
        """Takes no more connections, and cuts those that are there, as a process that is killed."""
        assert self.server is not None
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()

    async def state(self) -> dict[str, Any]:
        return {"running": self.live, "waiting": 0}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection, self.connections = self.connections, self.connections + 1
        self.writers.add(writer)
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET"):
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                    continue
                length = next(
                    int(line.partition(b":")[2])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                )
                body = await reader.readexactly(length)
                if head.startswith(b"POST /abort_request ") and not self.scripts_aborts:
                    self.aborts.append(body)
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    continue
                visit = Visit(reader, writer, len(self.visits), connection, head, body)
                self.visits.append(visit)
                self.live += 1
                try:
                    await self.script(visit)
                finally:
                    self.live -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()


def whole(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """An answer with a length."""
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b" % (
        status,
        lines,
        len(body),
        body,
    )


EVENT_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)
DONE = b"data: [DONE]\n\n"
LAST = b"0\r\n\r\n"
ANSWER = b'{"text":"right","meta_info":{"completion_tokens":1}}'


def event(text: str) -> bytes:
    """An event of /generate with a token."""
    said = {"text": text, "meta_info": {"completion_tokens": 1, "finish_reason": None}}
    return b"data: %b\n\n" % json.dumps(said).encode()


def chunked(*payloads: bytes) -> bytes:
    """Each payload as one chunk."""
    return b"".join(b"%x\r\n%b\r\n" % (len(payload), payload) for payload in payloads)


async def answer_at_once(visit: Visit) -> None:
    """What most workers of these tests do."""
    await visit.say(whole(ANSWER))


def stream_of(*pieces: bytes, between_s: float = 0.0) -> Script:
    """A script that writes these bytes behind the head of an event stream."""

    async def script(visit: Visit) -> None:
        await visit.say(EVENT_HEAD, *pieces, between_s=between_s)

    return script


@asynccontextmanager
async def start_worker(role: str, script: Script = answer_at_once) -> AsyncIterator[Scripted]:
    """A scripted worker on a free port."""
    scripted = Scripted(Role(role), script)
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    scripted.server = server
    port = server.sockets[0].getsockname()[1]
    scripted.worker = Worker(
        f"{role}-{port}",
        f"http://127.0.0.1:{port}",
        scripted.role,
        bootstrap_host="127.0.0.1" if role == "prefill" else None,
        bootstrap_port=8998 if role == "prefill" else None,
    )
    try:
        yield scripted
    finally:
        server.close()


@dataclass
class Stage:
    """A proxy before two scripted workers."""

    proxy: Proxy
    prefill: Scripted
    decode: Scripted


@asynccontextmanager
async def start_stage(
    decode: Script = answer_at_once,
    prefill: Script = answer_at_once,
    **settings: Any,
) -> AsyncIterator[Stage]:
    """A proxy before a scripted pair; `settings` are sections."""
    async with AsyncExitStack() as stack:
        workers: list[Any] = [
            await stack.enter_async_context(start_worker("prefill", prefill)),
            await stack.enter_async_context(start_worker("decode", decode)),
        ]
        proxy = await stack.enter_async_context(start_proxy(workers[:1], workers[1:], **settings))
        yield Stage(proxy, *workers)


def post(
    body: bytes = b'{"text":"hello"}',
    *headers: bytes,
    path: bytes = b"/generate",
    version: bytes = b"1.1",
) -> bytes:
    """A request with a length."""
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"POST %b HTTP/%b\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (
        path,
        version,
        lines,
        len(body),
        body,
    )


def post_chunked(*payloads: bytes, headers: bytes = b"") -> bytes:
    """A request in chunks."""
    return b"POST /generate HTTP/1.1\r\nHost: x\r\n%bTransfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % (
        headers,
        chunked(*payloads),
    )


@dataclass(frozen=True)
class Frame:
    """One answer as it was framed."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error, in OpenAI's shape."""
        found: dict[str, Any] = json.loads(self.body)["error"]
        assert set(found) == {"message", "type", "param", "code"}
        return found


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """The head of one answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head[:-4].split("\r\n")
    assert first.startswith("HTTP/1.1 "), first
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first[9:12]), headers


async def read_frame(reader: asyncio.StreamReader, limit_s: float = 10.0) -> Frame:
    """One answer, to the end that its framing names; one that breaks off raises IncompleteReadError."""
    async with asyncio.timeout(limit_s):
        status, headers = await read_head(reader)
        if status < 200 or status == 204:
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            pieces = []
            while True:
                size = int((await reader.readuntil(b"\r\n"))[:-2].partition(b";")[0], 16)
                payload = (await reader.readexactly(size + 2))[:-2]
                if not size:
                    break
                pieces.append(payload)
            body = b"".join(pieces)
        elif "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
        else:
            body = await reader.read()
        return Frame(status, headers, body)


async def frames_of(proxy: Proxy, *requests: bytes, answers: int, between_s: float = 0.0) -> list[Frame]:
    """Sends bytes on one connection and reads so many answers."""
    reader, writer = await proxy.connect()
    try:
        for piece in requests:
            writer.write(piece)
            if between_s:
                await writer.drain()
                await asyncio.sleep(between_s)
        return [await read_frame(reader) for _ in range(answers)]
    finally:
        writer.close()


async def ask(proxy: Proxy, request: bytes) -> Frame:
    """One request, one answer."""
    return (await frames_of(proxy, request, answers=1))[0]


async def closed(reader: asyncio.StreamReader, limit_s: float = 10.0) -> bytes:
    """What still comes until the proxy closes; a reset counts as closing."""
    async with asyncio.timeout(limit_s):
        try:
            return await reader.read()
        except ConnectionError:
            return b""
