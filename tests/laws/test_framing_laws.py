"""Laws of framing, judging, splicing and intake: nothing that comes over a wire can surprise them."""

from __future__ import annotations

import itertools
import json
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.edge.body import Body
from proxy.edge.head import HeadRules
from proxy.edge.head import parse_head as parse_request_head
from proxy.edge.intake import read_intake
from proxy.errors import BadRequest, BodyTooLarge, HeadTooLarge, UpstreamFailure
from proxy.flow.request import Route
from proxy.roster import Role, Worker
from proxy.routing.ledger import Ledger
from proxy.upstream.classify import Judge
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.framing import Dechunker, FramingError, ResponseHead, parse_head, whole_chunks
from proxy.upstream.outcome import Failure
from proxy.upstream.splice import splice_tail

payloads = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
cuts = st.lists(st.integers(0, 400), max_size=12)
extensions = st.sampled_from([b"", b";a", b";name=value", b'; q="x"'])
routes = st.sampled_from(list(Route))


def cut(data: bytes, where: list[int]) -> list[bytes]:
    """`data` in pieces."""
    edges = sorted({0, len(data), *(one for one in where if one < len(data))})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def chunked(pieces: list[bytes], extension: bytes, trailer: bytes) -> bytes:
    framed = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    return framed + b"0\r\n%b\r\n" % trailer


@given(payloads, cuts, extensions, st.sampled_from([b"", b"X: y\r\n"]), st.binary(max_size=20))
def test_any_cut_of_a_chunked_body_gives_the_body_and_nothing_behind_it(
    pieces: list[bytes], where: list[int], extension: bytes, trailer: bytes, behind: bytes
) -> None:
    framed = chunked(pieces, extension, trailer)
    dechunker, out, fed = Dechunker(), [], 0
    for piece in cut(framed + behind, where):
        end = dechunker.feed(piece, out)
        if end >= 0:
            assert fed + end == len(framed)
            break
        fed += len(piece)
    assert b"".join(out) == b"".join(pieces)


@given(st.lists(st.binary(max_size=30), max_size=8))
def test_a_dechunker_raises_nothing_but_framing_errors(pieces: list[bytes]) -> None:
    dechunker, out = Dechunker(), []
    with suppress(FramingError):
        for piece in pieces:
            if dechunker.feed(piece, out) >= 0:
                break


@given(st.sampled_from([b"+5", b"-5", b"0x5", b"5_0", b" ", b"", b"g", b"1" * 17, b"\xb2", b"5 5"]))
def test_tricks_with_chunk_sizes_are_refused(size: bytes) -> None:
    try:
        Dechunker().feed(size + b"\r\nhello\r\n", [])
    except FramingError:
        return
    raise AssertionError(f"{size!r} was taken for a chunk's size")


class _Leg:
    """Collects what a client would get."""

    def __init__(self, raw: bool) -> None:
        self.raw = raw
        self.framed, self.payload = b"", b""
        self.ended = self.broken = False
        self.calls: list[bytes] = []

    def on_head(self, head: ResponseHead) -> None:
        self.head = head

    def on_whole(self, head: ResponseHead, body: bytes) -> None:
        self.payload, self.ended = body, True

    def on_raw(self, data: bytes) -> None:
        out: list[bytes] = []
        assert Dechunker().feed(data + b"0\r\n\r\n", out) == len(data) + 5, "raw data is whole chunks"
        self.on_events(b"".join(out))

    def on_events(self, payload: bytes) -> None:
        self.calls.append(payload)
        self.payload += payload

    def on_body(self, piece: bytes) -> None:
        self.payload += piece

    def on_end(self) -> None:
        self.ended = True

    def on_broken(self, reason: str, *, untouched: bool, reused: bool) -> None:
        self.broken = True


class _Nobody:
    """An owner that does not care."""

    host_line = b""

    def on_made(self, connection: UpstreamConnection) -> None: ...
    def on_idle(self, connection: UpstreamConnection) -> None: ...
    def on_lost(self, connection: UpstreamConnection) -> None: ...


class _Transport:
    """Of a socket that takes everything."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True

    def write(self, data: bytes) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


def receive(data: list[bytes], raw: bool) -> tuple[_Leg, _Transport]:
    """Feeds an answer into a connection."""
    leg, transport = _Leg(raw), _Transport()
    connection = UpstreamConnection(_Nobody())
    connection.transport = transport  # type: ignore[assignment]
    connection.leg = leg
    for piece in data:
        if connection.leg is None:
            break
        connection.data_received(piece)
    return leg, transport


event_pieces = st.lists(
    st.sampled_from([b"data: a\n\n", b"data: b\n\ndata: c\n\n", b"data: ha", b"lf\n\n", b"\n", b": c\n\n"]),
    max_size=10,
)


@given(event_pieces, cuts, extensions, st.booleans())
@settings(max_examples=400)
def test_any_cut_of_any_event_stream_gives_the_client_the_same_bytes_in_whole_events(
    pieces: list[bytes], where: list[int], extension: bytes, raw: bool
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    leg, _ = receive(cut(head + chunked(pieces, extension, b""), where), raw)
    assert leg.ended
    assert leg.payload == b"".join(pieces)
    assert all(call.endswith(b"\n\n") for call in leg.calls[:-1])


@given(event_pieces, cuts, st.integers(0, 300), st.booleans())
def test_a_stream_that_breaks_anywhere_has_given_whole_events_only(
    pieces: list[bytes], where: list[int], kept: int, raw: bool
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    framed = chunked(pieces, b"", b"")[:kept]
    leg, _ = receive(cut(head + framed, where), raw)
    assert b"".join(pieces).startswith(leg.payload)
    assert leg.ended or leg.payload == b"" or leg.payload.endswith(b"\n\n")


@given(st.lists(st.binary(max_size=60), max_size=6), cuts, st.booleans())
def test_whatever_a_worker_sends_a_connection_never_raises(
    pieces: list[bytes], where: list[int], raw: bool
) -> None:
    for head in (
        b"",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: text/event-stream\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ):
        receive(cut(head + b"".join(pieces), where), raw)


@given(st.binary(max_size=200))
def test_whole_chunks_are_whole(data: bytes) -> None:
    good, _, _ = whole_chunks(data)
    if good:
        assert Dechunker().feed(data[:good], []) == -1
        assert data[:good].endswith(b"\n\n\r\n")


@given(payloads, cuts, st.booleans())
def test_a_body_is_what_was_sent_and_all_of_it_is_counted(
    pieces: list[bytes], where: list[int], in_chunks: bool
) -> None:
    sent = b"".join(pieces)
    framed = chunked(pieces, b"", b"") if in_chunks else sent
    ledger = Ledger(1 << 20)
    body = Body(None if in_chunks else len(sent), in_chunks, 1 << 16, ledger)
    extra = b""
    for piece in cut(framed + b"behind", where):
        extra = extra + piece if body.complete else body.feed(piece)
    assert body.complete
    assert body.join() == sent
    assert extra == b"behind"
    assert body.held_bytes == len(sent)
    assert ledger.held_bytes == len(sent)


@given(payloads.filter(lambda pieces: sum(map(len, pieces)) > 20), st.booleans())
def test_a_body_over_its_limit_is_refused_and_never_held(pieces: list[bytes], in_chunks: bool) -> None:
    ledger = Ledger(1 << 20)
    size = sum(map(len, pieces))
    body = None
    try:
        body = Body(None if in_chunks else size, in_chunks, 20, ledger)
        body.feed(chunked(pieces, b"", b""))
    except BodyTooLarge:
        assert ledger.held_bytes == (0 if body is None else body.held_bytes) <= 20
        return
    raise AssertionError("it was taken")


header_line = st.one_of(
    st.binary(max_size=30),
    st.sampled_from(
        [
            b"Host: x",
            b"Content-Length: 5",
            b"Content-Length: -5",
            b"Content-Length: 99999999999999999999999",
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding: gzip",
            b"Connection: upgrade",
            b"Upgrade: h2c",
            b"X-Request-Id: \xff",
            b"Connection: close, x",
        ]
    ),
)
first_line = st.one_of(
    st.binary(max_size=30).map(lambda tail: b"POST /generate" + tail),
    st.sampled_from([b"POST /generate HTTP/1.1", b"POST /generate?x HTTP/1.0", b"POST /generate HTTP/2.0"]),
)


@given(first_line, st.lists(header_line, max_size=6))
@settings(max_examples=400)
def test_a_request_head_is_parsed_or_refused(first: bytes, lines: list[bytes]) -> None:
    head = b"\r\n".join([first, *lines, b"", b""])
    head = head[: head.find(b"\r\n\r\n") + 4]
    with suppress(BadRequest, HeadTooLarge):
        parsed = parse_request_head(head, HeadRules())
        assert not (parsed.chunked and parsed.content_length is not None)
        assert b"\r\n\r\n" not in parsed.passed_on


@given(st.binary(max_size=40), st.lists(header_line, max_size=5))
def test_a_response_head_is_parsed_or_refused(first: bytes, lines: list[bytes]) -> None:
    for start in (first, b"HTTP/1.1 " + first, b"HTTP/1.1 200 OK"):
        with suppress(UpstreamFailure):
            head = parse_head(b"\r\n".join([start, *lines, b"", b""]))
            assert 100 <= head.status <= 599


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["text", "meta_info", "finish_reason", "type", "status_code", "message", "choices", "delta",
             "content", "error", "code", "completion_tokens", "prompt", "messages", "n", "rid", "stream",
             "sampling_params", "max_tokens", "model", "stream_options", "input_ids", "abort"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.one_of(json_values.map(lambda value: json.dumps(value).encode()), st.binary(max_size=40)))
@settings(max_examples=400)
def test_a_judge_has_a_verdict_on_anything(said: bytes) -> None:
    for generate in (True, False):
        for role in (Role.PREFILL, Role.DECODE):
            judge = Judge(generate, role)
            for verdict in (
                judge.event(said),
                judge.events(b"data: " + said + b"\n\n"),
                judge.whole(200, said),
                judge.whole(500, said),
            ):
                if isinstance(verdict, Failure):
                    assert 400 <= verdict.status <= 599


@given(routes, st.one_of(json_values.map(lambda value: json.dumps(value).encode()), st.binary(max_size=40)))
@settings(max_examples=400)
def test_intake_reads_a_body_or_calls_it_a_bad_request(route: Route, body: bytes) -> None:
    with suppress(BadRequest):
        assert 1 <= read_intake(route, body, 128).n <= 128


DEEP = 100_000
DEEP_BODIES = (
    b'{"text":' + b"[" * DEEP + b"]" * DEEP + b"}",
    b'{"x":' * DEEP + b"1" + b"}" * DEEP,
    b"[" * DEEP,
    b'{"text":"\xff"}',
    b'{"rid":"\xff","text":"a","prompt":"a","messages":[]}',
)


def test_bodies_of_any_depth_and_of_no_utf_8_are_refused_or_read() -> None:
    for route in Route:
        for body in DEEP_BODIES:
            with suppress(BadRequest):
                read_intake(route, body, 128)


def test_a_judge_survives_answers_of_any_depth() -> None:
    for generate in (True, False):
        for body in DEEP_BODIES:
            judge = Judge(generate, Role.DECODE)
            judge.event(body)
            judge.whole(200, body + b'"error"')


def test_a_failure_has_a_status_that_http_has() -> None:
    for code in (0, 42, 99, 600, 99999, -1, 10**30, "x", None, []):
        said = json.dumps({"error": {"message": "m", "code": code}}).encode()
        aborted = json.dumps(
            {"text": "", "meta_info": {"finish_reason": {"type": "abort", "status_code": code}}}
        ).encode()
        for judge in (Judge(True, Role.DECODE), Judge(False, Role.DECODE)):
            for verdict in (judge.event(said), judge.event(aborted)):
                if isinstance(verdict, Failure):
                    assert 400 <= verdict.status <= 599, code


objects = st.dictionaries(
    st.sampled_from(["bootstrap_host", "bootstrap_port", "bootstrap_room", "rid", "text", "z"]), json_values
)


@given(objects.filter(bool), st.integers(1, 2**62), st.sampled_from(["10.0.0.1", "::1", None]))
def test_a_spliced_body_is_json_whose_last_keys_win(
    body: dict[str, Any], room: int, host: str | None
) -> None:
    prefill = Worker(
        "p", "http://127.0.0.1:1", Role.PREFILL, bootstrap_host=host, bootstrap_port=8998 if host else None
    )
    said = json.dumps(body).encode()
    spliced = json.loads(said[: said.rfind(b"}")] + splice_tail(prefill, room, "f" * 32))
    assert spliced == {
        **body,
        "bootstrap_host": {"::1": "[::1]", None: "127.0.0.1"}.get(host, host),
        "bootstrap_port": 8998 if host else None,
        "bootstrap_room": room,
        "rid": "f" * 32,
    }
