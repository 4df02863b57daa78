"""One connection to a worker: frames its answers and hands them to a leg."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from proxy.errors import UpstreamFailure
from proxy.upstream.carrying import Leg, Owner
from proxy.upstream.framing import Dechunker, FramingError, ResponseHead, parse_head, whole_chunks
from proxy.upstream.tap import Tap
from proxy.upstream.templates import Templates

_LONGEST_HEAD = 65536
_LONGEST_EVENT = 64 * 1024 * 1024  # why: an event with logprobs of a long prompt has tens of MB

_heads = Templates(parse_head, lower_case=True)  # uvicorn's way


class UpstreamConnection(asyncio.Protocol):
    """Owns one transport; carries one request at a time."""

    __slots__ = (
        "_body",
        "_dechunker",
        "_event_tail",
        "_head",
        "_left",
        "_owner",
        "_pending",
        "_pending_need",
        "_tap",
        "host_line",
        "idle_since",
        "leg",
        "paused",
        "served",
        "transport",
    )

    def __init__(self, owner: Owner) -> None:
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.leg: Leg | None = None
        self.served = 0
        """Answers that have ended on this connection."""
        self.idle_since = 0.0
        """The event loop's time, s."""
        self.host_line = owner.host_line
        self._owner = owner
        self.paused = False
        """Whether we ourselves do not read."""
        self._tap: Tap | None = None
        self._pending: bytearray | None = None  # received, but not yet enough of it to act on
        self._pending_need = 0
        self._head: ResponseHead | None = None
        # A plain function: a bound one would tie the connection into a reference cycle.
        self._body: Callable[[UpstreamConnection, bytes], None] = UpstreamConnection._on_length
        self._left: int | None = 0  # bytes of the body still to come; None: until the connection's end
        self._dechunker: Dechunker | None = None
        self._event_tail = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: connected."""
        self.transport = cast(asyncio.Transport, transport)
        self._owner.on_made(self)

    def send(self, leg: Leg, request_line: bytes, rest: bytes | list[bytes | memoryview]) -> None:
        """Sends one request; its answer goes to `leg`.

        Args:
            leg: learns that this connection carries it.
            request_line: with its line's end.
            rest: all that follows the Host line.
        """
        self.leg = leg
        leg.connection = self
        if isinstance(rest, bytes):
            self.transport.write(request_line + self.host_line + rest)
        else:
            self.transport.writelines([request_line, self.host_line, *rest])

    def divert_to(self, tap: Tap) -> None:
        """From now on `tap` hears the transport first, if it is a stream that may go on raw."""
        if self._body is UpstreamConnection._on_raw:
            self._tap = tap
            tap.connection = self
            if self._pending is None:
                self.transport.set_protocol(tap)

    def _take_back(self) -> None:
        """The tap hears nothing more."""
        if self._tap is not None:
            self._tap = None
            self.transport.set_protocol(self)

    def abort(self) -> None:
        """Closes at once; the leg hears nothing more. For SGLang this is the abort."""
        self.leg = None
        self._take_back()
        self.transport.abort()

    def pause(self) -> None:
        """Reads no more of the answer until `resume`: its reader does not keep up."""
        if not self.paused:
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Reads on."""
        if self.paused:
            self.paused = False
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes from the worker."""
        leg = self.leg
        if leg is None:
            self.transport.abort()
            return
        if self._pending is not None:
            self._pending += data
            if len(self._pending) < self._pending_need:
                return
            data = bytes(self._pending)
            self._pending = None
            if self._tap is not None:
                self.transport.set_protocol(self._tap)
        try:
            if self._head is None:
                self._on_head_bytes(leg, data)
            else:
                self._body(self, data)
        except (FramingError, UpstreamFailure) as error:
            self._break(str(error))

    def _keep(self, data: bytes, need: int) -> None:
        """Holds `data` until there are `need` bytes of it."""
        if need > _LONGEST_EVENT:
            raise FramingError("an event is too long to hold")
        self._pending = bytearray(data)
        self._pending_need = need
        if self._tap is not None:
            self.transport.set_protocol(self)  # what comes next is not the begin of a chunk

    def _on_head_bytes(self, leg: Leg, data: bytes) -> None:
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            if len(data) > _LONGEST_HEAD:
                raise FramingError("the response head is too long")
            self._keep(data, len(data) + 1)
            return
        head, length = _heads.read(data, end)
        rest = data[end:]
        if head.status < 200:
            if rest:
                self._on_head_bytes(leg, rest)
            return
        if length is None or head.chunked:
            length = head.content_length
        if length == len(rest) and not head.event_stream:
            self._release(head.keep_alive)
            leg.on_whole(head, rest)
            return
        self._head = head
        leg.on_head(head)
        if self.leg is leg:
            self._on_first_body_bytes(leg, head, length, rest)

    def _on_first_body_bytes(self, leg: Leg, head: ResponseHead, length: int | None, rest: bytes) -> None:
        if length == 0 or head.status in (204, 304):
            self._finish(rest)
            return
        self._event_tail.clear()
        if not head.chunked:
            # Without a length the body lasts until the connection's end, and no end is a clean one:
            # HTTP/1.0 knows no other, but SGLang never answers so.
            self._left = length
            self._body = UpstreamConnection._on_length
        elif leg.raw and head.event_stream:
            self._body = UpstreamConnection._on_raw
        else:
            self._dechunker = Dechunker()
            self._body = UpstreamConnection._on_chunked
        if rest:
            self._body(self, rest)

    def _on_length(self, data: bytes) -> None:
        leg, left = self.leg, self._left
        assert leg is not None
        if left is None:
            self._emit(leg, data, False)
            return
        extra = b""
        if len(data) > left:
            data, extra = data[:left], data[left:]
        self._left = left = left - len(data)
        self._emit(leg, data, left == 0)
        if left == 0 and self.leg is leg:
            self._finish(extra)

    def _on_raw(self, data: bytes) -> None:
        good, need, plain = whole_chunks(data)
        leg = self.leg
        assert leg is not None
        if good == len(data):
            leg.on_raw(data)
            return
        if good:
            leg.on_raw(data[:good])
            if self.leg is not leg:
                return
            data = data[good:]
        if plain:
            self._keep(data, need - good)
        else:
            self._take_back()
            self._dechunker = Dechunker()
            self._body = UpstreamConnection._on_chunked
            self._on_chunked(data)

    def _on_chunked(self, data: bytes) -> None:
        leg, dechunker = self.leg, self._dechunker
        assert leg is not None
        assert dechunker is not None
        pieces: list[bytes] = []
        end = dechunker.feed(data, pieces)
        self._emit(leg, b"".join(pieces), end >= 0)
        if end >= 0 and self.leg is leg:
            self._finish(data[end:])

    def _emit(self, leg: Leg, payload: bytes, last: bool) -> None:
        """Hands payload on: of an event stream whole events only, of anything else all."""
        head = self._head
        assert head is not None
        if not head.event_stream:
            if payload:
                leg.on_body(payload)
            return
        tail = self._event_tail
        searched = max(len(tail) - 1, 0)
        if tail:
            tail += payload
        cut = (tail or payload).rfind(b"\n\n", searched) + 2
        if last:
            cut = len(tail or payload)
        elif cut < 2:
            cut = 0
        if tail:
            payload = bytes(tail[:cut])
            del tail[:cut]
        else:
            tail += payload[cut:]
            payload = payload[:cut]
        if len(tail) > _LONGEST_EVENT:
            raise FramingError("an event is too long to hold")
        if payload:
            leg.on_events(payload)

    def _finish(self, extra: bytes) -> None:
        leg, head = self.leg, self._head
        assert leg is not None
        assert head is not None
        self._head = None
        self._dechunker = None
        self._event_tail.clear()
        self._release(head.keep_alive and not extra)
        leg.on_end()

    def _release(self, reusable: bool) -> None:
        """The answer has ended: the connection is free for another, or closed."""
        self.leg = None
        self.served += 1
        if self.paused:
            self.resume()
        if reusable:
            self._owner.on_idle(self)
        else:
            self.transport.abort()

    def _break(self, reason: str) -> None:
        leg = self.leg
        self.abort()
        if leg is not None:
            leg.on_broken(reason, untouched=False, reused=False)

    def eof_received(self) -> None:
        """asyncio: the worker sends no more; None closes the transport."""

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self._owner.on_lost(self)
        leg, self.leg, self._tap = self.leg, None, None
        if leg is None:
            return
        untouched = self._head is None and self._pending is None
        where = "before it answered" if untouched else "in the middle of its answer"
        reason = f"the worker's connection ended {where} ({exc or 'EOF'})"
        leg.on_broken(reason, untouched=untouched, reused=self.served > 0)
