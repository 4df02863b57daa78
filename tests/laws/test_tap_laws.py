"""Laws of the short way of a token: it takes nothing but what is plain, and changes nothing at all."""

from __future__ import annotations

import asyncio
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.flow.continuation.account import OpenAIAccount
from proxy.flow.continuation.scribe import Scribe
from proxy.roster import Role
from proxy.routing.ledger import Ledger
from proxy.upstream.classify import Judge
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.framing import LAST_CHUNK, LONGEST_PLAIN, ResponseHead, chunk, whole_chunks

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def token(text: bytes) -> bytes:
    """An event that goes on."""
    return b'data: {"choices":[{"text":"%b","finish_reason":null}]}\n\n' % text


class _Client:
    """Gets what passes."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.raw = self.got.append

    def payload(self, data: bytes) -> None:
        self.got.append(chunk(data))


class _Line:
    """A connection to a worker in the middle of a stream, its transport, leg and owner, and the scribe."""

    raw = True
    host_line = b""

    def __init__(self) -> None:
        self.client = _Client()
        judge, ledger = Judge(False, Role.DECODE), Ledger(1 << 30)
        self.scribe = Scribe(judge, self.client, self.client, OpenAIAccount(), ledger, lambda: 0.0)
        self.left: list[bytes] = []
        """Reads' parts that took the long way."""
        self.ended = self.broken = self.aborted = self.idle = False
        self.connection = UpstreamConnection(self)
        self.connection.transport = self  # type: ignore[assignment]
        self.connection.leg = self
        self.protocol: asyncio.Protocol = self.connection
        self.protocol.data_received(HEAD)

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol

    def abort(self) -> None:
        self.aborted = True

    def on_head(self, head: ResponseHead) -> None: ...
    def on_whole(self, head: ResponseHead, body: bytes) -> None: ...
    def on_made(self, connection: UpstreamConnection) -> None: ...
    def on_lost(self, connection: UpstreamConnection) -> None: ...

    def on_idle(self, connection: UpstreamConnection) -> None:
        self.idle = True

    def on_raw(self, data: bytes) -> None:
        self.left.append(data)
        self.scribe.raw(data)

    def on_events(self, payload: bytes) -> None:
        self.on_raw(chunk(payload))

    def on_body(self, piece: bytes) -> None:
        raise AssertionError("it is an event stream")

    def on_end(self) -> None:
        self.ended = True

    def on_broken(self, reason: str, *, untouched: bool, reused: bool) -> None:
        self.broken = True


TRAP = chunk(token(b"trap"))
"""What a worker's event may hold, of all things; read alone it looks plain."""


def payload_of(framed: bytes) -> bytes:
    """Of whole chunks of whole events."""
    out = b""
    while framed:
        size, _, rest = framed.partition(b"\r\n")
        length = int(size, 16)
        out, framed = out + rest[:length], rest[length + 2 :]
    return out


pieces = st.lists(
    st.sampled_from(
        [
            token(b"a"),
            token(b"x" * LONGEST_PLAIN),
            token(b"b") + token(b"c"),
            token(b"d")[:20],
            token(b"d")[20:],
            b": ping\n\n" + TRAP[:-2],
            b"\n",
            b"data: [DONE]\n\n",
        ]
    ),
    max_size=10,
)
extensions = st.sampled_from([b"", b";a"])


@given(pieces, extensions, st.lists(st.integers(0, 900), max_size=12), st.integers(0, 12))
@settings(max_examples=600)
def test_any_cut_of_any_stream_gives_the_same_bytes_whenever_it_was_diverted(
    events: list[bytes], extension: bytes, where: list[int], diverted_at: int
) -> None:
    line = _Line()
    framed = b"".join(b"%x%b\r\n%b\r\n" % (len(one), extension, one) for one in events) + LAST_CHUNK
    traps = [at for at in range(len(framed)) if framed.startswith(TRAP, at)]
    where += [edge for at in traps for edge in (at, at + len(TRAP))]
    edges = sorted({0, len(framed), *(one for one in where if one < len(framed))})
    for at, (start, end) in enumerate(itertools.pairwise(edges)):
        if at == diverted_at:
            line.connection.divert_to(line.scribe)
        line.protocol.data_received(framed[start:end])
    assert (line.ended, line.idle, line.broken, line.aborted) == (True, True, False, False)
    assert line.protocol is line.connection, "a connection that serves again hears for itself"
    assert payload_of(b"".join(line.client.got)) == b"".join(events)


@given(st.binary(max_size=30), st.integers(0, LONGEST_PLAIN))
def test_one_chunk_of_one_event_that_goes_on_takes_the_short_way_and_nothing_else_does(
    data: bytes, padding: int
) -> None:
    event = chunk(token(b"x" * padding))
    assert takes(event) is (len(event) <= LONGEST_PLAIN)
    ends = token(b"").replace(b"null", b'"stop"')
    cut_short = (chunk(token(b"x" * padding)[:-1]), event[:-2] + b"..", event[:-1], b"0" + event)
    for other in (data, event + event, *cut_short):
        assert not takes(other) or whole_chunks(other) == (len(other), 0, True)
    for other in (ends, token(b"") + ends, token(b"") + b'data: {"error":{}}\n\n', b"data: [DONE]\n\n"):
        assert not takes(chunk(other))


@given(st.integers(1, len(TRAP) - 1))
def test_after_a_chunk_in_two_reads_the_short_way_is_open_again(cut: int) -> None:
    line = _Line()
    line.connection.divert_to(line.scribe)
    for read in (TRAP[:cut], TRAP[cut:]):
        line.protocol.data_received(read)
    assert line.left == [TRAP]
    line.protocol.data_received(TRAP)
    assert (line.left, line.client.got) == ([TRAP], [TRAP, TRAP])


def takes(data: bytes) -> bool:
    """Whether the scribe passes a read on, of which the connection hears nothing."""
    line = _Line()
    line.connection.divert_to(line.scribe)
    line.protocol.data_received(data)
    return line.client.got == [data] and not line.left


@given(st.lists(st.integers(1, 300), max_size=4), st.binary(max_size=40), st.booleans())
def test_whatever_a_worker_says_to_a_tapped_connection_it_raises_nothing(
    cuts: list[int], noise: bytes, early: bool
) -> None:
    line = _Line()
    said = chunk(token(b"a")) + noise + chunk(token(b"b"))
    edges = sorted({0, len(said), *(one for one in cuts if one < len(said))})
    if early:
        line.connection.divert_to(line.scribe)
    for start, end in itertools.pairwise(edges):
        if not line.aborted:
            line.protocol.data_received(said[start:end])
            line.connection.divert_to(line.scribe)
    line.protocol.connection_lost(None)
    assert line.ended or line.broken
    assert b"".join(line.client.got).startswith(chunk(token(b"a"))[: len(b"".join(line.client.got))])
