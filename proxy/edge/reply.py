"""The answer to one request, framed for the client's HTTP version."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from http import HTTPStatus

from proxy import faults
from proxy.errors import Overloaded, PdError
from proxy.upstream.framing import LAST_CHUNK, chunk

_JSON = b"Content-Type: application/json\r\n"


def _nothing() -> None:
    """For those who need not be told."""


def _ignore(closes: bool) -> None:
    """For a connection that is no more."""


class _Nowhere(asyncio.WriteTransport):
    """Takes what is still written for a client that has gone: uvloop's closed transports raise."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Drops it."""

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Drops them."""

    def abort(self) -> None:
        """The connection is no more."""


_NOWHERE = _Nowhere()


class Reply:
    """Writes one answer, once: whole, or opened, fed and ended.

    The framing is ours: whatever a worker sent, the body that a client gets is complete as
    its head says, or the connection is closed in the middle and the client can tell.
    """

    __slots__ = (
        "_closes",
        "_drained",
        "_in_chunks",
        "_last",
        "_on_end",
        "_transport",
        "bytes_out",
        "ended",
        "extra_headers",
        "on_pause",
        "on_resume",
        "opened",
        "paused",
        "status",
        "takes_chunks",
    )

    def __init__(
        self,
        transport: asyncio.WriteTransport,
        *,
        http10: bool,
        closes: bool,
        last: Callable[[], bool],
        on_end: Callable[[bool], None],
        extra_headers: bytes = b"",
    ) -> None:
        """Makes a reply.

        Args:
            transport: the client's.
            http10: the client cannot read chunks.
            closes: the connection ends after this answer.
            last: whether it does for another reason, asked when the head is written: a client that
                has not been told must find its connection open.
            on_end: called once, when all is written, with whether the connection must close.
            extra_headers: header lines of our own, each with its line's end.
        """
        self._transport = transport
        self._closes = closes
        self._last = last
        self._on_end = on_end
        self.takes_chunks = not http10
        """Whether `raw` may be used."""
        self._in_chunks = False
        self._drained: asyncio.Future[None] | None = None
        self.extra_headers = extra_headers
        """May be added to until the head is written."""
        self.status = 0
        """0 until the head is written."""
        self.bytes_out = 0
        """Of bodies."""
        self.opened = False
        self.ended = False
        self.paused = False
        """Whether the client does not keep up."""
        self.on_pause = _nothing
        self.on_resume = _nothing

    def close_after(self) -> None:
        """Makes this the connection's last answer."""
        self._closes = True

    def _head(self, status_line: bytes, headers: bytes, framing: bytes) -> bytes:
        self.status = int(status_line[9:12])
        self.opened = True
        if self._last():
            self._closes = True
        if self._closes:
            framing += b"Connection: close\r\n"
        return b"%b\r\n%b%b%b\r\n" % (status_line, headers, self.extra_headers, framing)

    def whole(self, status_line: bytes, headers: bytes, body: bytes) -> None:
        """Writes a complete answer.

        Args:
            status_line: of HTTP/1.1, without its line's end.
            headers: lines with their ends, framing headers not among them.
            body: all of it.
        """
        head = self._head(status_line, headers, b"Content-Length: %d\r\n" % len(body))
        self.bytes_out += len(body)
        if len(body) < 32768:
            self._transport.write(head + body)
        else:
            self._transport.writelines([head, body])

    def open(self, status_line: bytes, headers: bytes) -> None:
        """Writes the head of an answer whose length is not known."""
        if not self.takes_chunks:
            self._closes = True
        self._in_chunks = self.takes_chunks
        framing = b"Transfer-Encoding: chunked\r\n" if self._in_chunks else b""
        self._transport.write(self._head(status_line, headers, framing))

    def raw(self, data: bytes) -> None:
        """Writes whole chunks as they came from a worker. Not for HTTP/1.0."""
        self.bytes_out += len(data)
        self._transport.write(data)

    def payload(self, data: bytes) -> None:
        """Writes a piece of the body."""
        self.bytes_out += len(data)
        self._transport.write(chunk(data) if self.takes_chunks else data)

    async def drained(self) -> None:
        """Waits until the client has taken most of what was written; the door cuts one that does not."""
        if self.paused:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def end(self) -> None:
        """Ends the answer, whole or opened."""
        if self._in_chunks:
            self._transport.write(LAST_CHUNK)
        self.ended = True
        self._on_end(self._closes)

    def fail(self, error: PdError) -> None:
        """Tells of an error with a proper status. Only while nothing has been written."""
        status_line = b"HTTP/1.1 %d %b" % (error.status, _phrase(error.status))
        headers = "".join(f"{name}: {value}\r\n" for name, value in faults.headers(error))
        self.whole(status_line, _JSON + headers.encode("latin-1"), faults.body(error))
        self.end()

    def break_off(self) -> None:
        """Cuts the connection: for an answer that cannot be completed, so that the client can tell."""
        self.ended = True
        self._transport.abort()

    def forsake(self) -> None:
        """The client has gone: what is written until its request has ended goes nowhere."""
        self._transport = _NOWHERE
        self._on_end = _ignore

    def pause(self) -> None:
        """The transport: its buffer is full."""
        self.paused = True
        self.on_pause()

    def resume(self) -> None:
        """The transport: its buffer has emptied."""
        self.paused = False
        self.on_resume()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)


def turn_away(transport: asyncio.Transport) -> None:
    """Answers a client for whose connection there is no room, and closes it."""
    error = Overloaded("too many connections (setting server.max_connections)", retry_after_s=1)
    reply = Reply(
        transport, http10=False, closes=True, last=lambda: True, on_end=lambda closes: transport.close()
    )
    reply.fail(error)


def _phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b"Unknown"
