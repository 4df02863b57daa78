"""A client's connection: reads requests one by one, and sees the client leave.

Reading never pauses, not even while a request runs: that is how a leaving client is seen.
What arrives meanwhile (pipelined requests) is held unparsed.
"""

from __future__ import annotations

import asyncio
from typing import cast

from proxy.edge.body import Body
from proxy.edge.door import Door
from proxy.edge.handover import hand_over
from proxy.edge.head import RequestHead
from proxy.edge.intake import read_intake
from proxy.edge.reply import Reply, turn_away
from proxy.edge.routes import DATA_ROUTES, data_route
from proxy.edge.serving import Serving
from proxy.edge.states import (
    BODY,
    CATCHING_UP,
    CLOSED,
    CLOSING,
    HEAD,
    LINGERING,
    SERVING,
    Overdue,
    overdue,
    too_slow,
)
from proxy.errors import BadRequest, PdError
from proxy.flow.request import Request, Route

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ClientConnection(asyncio.Protocol):
    """Owns one client's transport; one request at a time is on its way."""

    __slots__ = (
        "_body",
        "_body_began_at",
        "_buffer",
        "_door",
        "_head",
        "_held_bytes",
        "_reply",
        "_serving",
        "_since",
        "_state",
        "_transport",
        "_unread",
    )

    def __init__(self, door: Door) -> None:
        self._door = door
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._state = HEAD
        self._since = 0.0  # monotonic seconds: when this state began, or last made progress
        self._body_began_at = 0.0
        self._buffer = b""
        self._head: RequestHead | None = None
        self._body: Body | None = None  # while it comes in pieces
        self._held_bytes = 0  # of the body, once it is complete
        self._unread = True  # whether something of the present request is still to come
        self._reply: Reply | None = None
        self._serving = Serving(door)

    @property
    def busy(self) -> bool:
        """Whether a request is on its way."""
        return self._state in (BODY, SERVING, CATCHING_UP, CLOSING) or bool(self._buffer)

    @property
    def _paused(self) -> bool:
        """Whether the client is slow to take its answer."""
        return self._reply is not None and self._reply.paused

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: a client has come."""
        self._transport = cast(asyncio.Transport, transport)
        if self._door.full:
            self._state = CLOSED
            turn_away(self._transport)
            return
        self._since = self._door.sweeper.now
        self._door.connections.add(self)
        self._door.sweeper.members.add(self)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes from the client."""
        state = self._state
        if state == HEAD:
            self._read_head(self._buffer + data if self._buffer else data)
        elif state == BODY:
            self._read_body(data)
        elif state in (SERVING, CATCHING_UP):
            self._buffer += data
            if len(self._buffer) > self._door.rules.pipelined_bytes:
                self._transport.abort()

    # --- the head

    def _read_head(self, data: bytes) -> None:
        route = data_route(data)
        if route is None and data.startswith((b"\r", b"\n")):
            # Some clients end a body with an extra line's end; RFC 9112 2.2 wants it skipped.
            data = data.lstrip(b"\r\n")
            route = data_route(data)
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            self._keep_head(data)
            return
        if route is None:
            self._leave_to_control(data)
            return
        self._buffer = b""
        door = self._door
        try:
            head, size = door.read_head(data, end)
            self._head = head
            if door.locked:
                door.check_key(head.authorization)
            self._body_began_at = door.now()
            if len(data) - end < size or head.chunked:
                self._begin_body(head, size, data[end:])
                return
            door.ledger.take(size)
        except PdError as error:
            self._refuse(error, route)
            return
        # The common case: all of the body came with its head.
        self._held_bytes = size
        size += end
        self._buffer = data[size:]
        self._serve(route, head, data[end:size])

    def _keep_head(self, data: bytes) -> None:
        if not self._buffer:
            self._since = self._door.sweeper.now
        self._buffer = data
        if len(data) > self._door.rules.head.head_bytes:
            self._refuse(self._door.head_too_large())

    def _leave_to_control(self, data: bytes) -> None:
        self._forget()
        hand_over(self._transport, data, self._door)

    # --- the body

    def _begin_body(self, head: RequestHead, size: int, data: bytes) -> None:
        self._body = Body(size, head.chunked, self._door.rules.body_bytes, self._door.ledger)
        self._state = BODY
        self._since = self._body_began_at
        if data:
            self._read_body(data)
        elif head.expects_continue and not head.http10:
            self._transport.write(_CONTINUE)

    def _read_body(self, data: bytes) -> None:
        body, head = self._body, self._head
        assert body is not None
        assert head is not None
        try:
            extra = body.feed(data)
        except PdError as error:
            self._refuse(error)
            return
        if not body.complete:
            self._since = self._door.sweeper.now
            return
        self._body = None
        self._held_bytes = body.held_bytes
        self._buffer = extra
        self._serve(DATA_ROUTES[head.target.partition(b"?")[0]], head, body.join())

    def _serve(self, route: Route, head: RequestHead, body: bytes) -> None:
        door = self._door
        self._unread = False
        request_id = head.request_id or door.new_request_id()
        id_line = b"X-Request-Id: %b\r\n" % request_id.encode()
        try:
            intake = read_intake(route, body, door.rules.largest_n)
        except BadRequest as error:
            self._refuse(error, route)
            return
        headers, model, began_at = head.passed_on + id_line, intake.model or head.model, self._body_began_at
        request = Request(
            route, head.request_line, headers, body, intake, model, request_id, began_at, head.patience
        )
        self._state = SERVING
        self._serving.start(request, self._new_reply(head, id_line))

    def _new_reply(self, head: RequestHead | None, id_line: bytes) -> Reply:
        self._reply = reply = Reply(
            self._transport,
            http10=head is not None and head.http10,
            closes=head is None or not head.keep_alive,
            last=self._door.is_leaving,
            on_end=self._replied,
            extra_headers=id_line,
        )
        return reply

    # --- the answer

    def _refuse(self, error: PdError, route: Route | None = None) -> None:
        """Answers with an error; if the request was not read to its end, the connection cannot go on."""
        head, request_id, id_line = self._head, "", b""
        if head is not None:
            request_id = head.request_id or self._door.new_request_id()
            id_line = b"X-Request-Id: %b\r\n" % request_id.encode()
        reply = self._new_reply(head, id_line)
        if self._unread:
            reply.close_after()
        if route is None:
            reply.fail(error)
        else:
            self._door.corridor.refuse(route, request_id, reply, error, self._body_began_at)

    def _replied(self, closes: bool) -> None:
        unread, behind = self._unread, self._paused
        self._end_request()
        if unread:
            self._linger()
        elif closes:
            self._close()
        elif behind:
            self._state = CATCHING_UP
            self._since = self._door.sweeper.now
        else:
            self._await_next()

    def _await_next(self) -> None:
        self._state = HEAD
        self._since = self._door.sweeper.now
        if self._buffer:
            # Not from within the task that has just answered: it is not quite done.
            self._door.loop.call_soon(self._read_on)

    def _close(self) -> None:
        """Closes when all is written; who does not take it is cut in time."""
        self._state = CLOSING
        self._since = self._door.sweeper.now
        self._buffer = b""
        self._serving.finish()
        self._transport.close()

    def _read_on(self) -> None:
        if self._state == HEAD and self._buffer:
            data, self._buffer = self._buffer, b""
            self._read_head(data)

    def _end_request(self) -> None:
        self._reply = self._head = None
        self._unread = True
        self._door.ledger.give(self._held_bytes if self._body is None else self._body.held_bytes)
        self._held_bytes = 0
        self._body = None

    def _linger(self) -> None:
        self._state = LINGERING
        self._since = self._door.sweeper.now
        self._buffer = b""
        if self._transport.can_write_eof():
            self._transport.write_eof()

    # --- the client's leaving, and ours

    def pause_writing(self) -> None:
        """asyncio: the client does not keep up."""
        self._since = self._door.sweeper.now
        if self._reply is not None:
            self._reply.pause()

    def resume_writing(self) -> None:
        """asyncio: it has caught up."""
        if self._reply is not None:
            self._reply.resume()
        elif self._state == CATCHING_UP:
            self._await_next()

    def eof_received(self) -> None:
        """asyncio: the client sends no more. Half-closing counts as leaving; None closes the transport."""
        self._gone()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self._gone()

    def _gone(self) -> None:
        answered = self._state == CLOSING
        if self._state == CLOSED:
            return
        self._forget()
        if not answered:
            self._serving.cancel()

    def _forget(self) -> None:
        self._state = CLOSED
        self._buffer = b""
        if self._reply is not None:
            self._reply.forsake()
        self._end_request()
        self._door.connections.discard(self)
        self._door.sweeper.members.discard(self)
        self._serving.finish()

    def close_if_idle(self, idle_s: float) -> None:
        """Closes the connection if it has been idle for so long.

        One that has just come, or has just been answered, may have a request on its way to us
        that closing would lose.
        """
        if self._state == HEAD and not self._buffer and self._door.now() - self._since >= idle_s:
            self._forget()
            self._transport.close()

    def cut(self) -> None:
        """Ends the connection now."""
        self._gone()
        self._transport.abort()

    def sweep(self, now: float) -> None:
        """Looks at the deadlines."""
        reply = self._reply
        if self._state == SERVING and reply is not None and not reply.paused:
            return  # thousands are in this state, at every sweep
        door = self._door
        begun = bool(self._buffer) if self._state == HEAD else self._paused
        late = overdue(self._state, now - self._since, now - self._body_began_at, begun, door.rules)
        if late is None:
            return
        if late is Overdue.TAKING:
            self._transport.abort()
        elif late is Overdue.IDLE:
            self.close_if_idle(0)
        else:
            self._refuse(too_slow(late, door.rules))
