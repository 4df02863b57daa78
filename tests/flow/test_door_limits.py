"""What a client may send, how long it may take, and what it is told beyond that. No worker hears of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.flow.scripted import (
    Frame,
    Visit,
    ask,
    closed,
    post,
    post_chunked,
    read_frame,
    start_stage,
    whole,
)
from tests.support.proxies import eventually

SMUGGLED: dict[str, bytes] = {
    "length and chunks": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n123456",
    "two equal lengths": b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n12345",
    "list of lengths": b"Content-Length: 5, 5\r\n\r\n12345",
    "signed length": b"Content-Length: +5\r\n\r\n12345",
    "negative length": b"Content-Length: -5\r\n\r\n12345",
    "hex length": b"Content-Length: 0x5\r\n\r\n12345",
    "huge length": b"Content-Length: 99999999999999999999999999\r\n\r\n",
    "other coding": b"Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
    "coding before chunks": b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunks before coding": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "two codings": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "odd coding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "space before colon": b"Content-Length : 5\r\n\r\n12345",
    "folded header": b"X-A: b\r\n c\r\nContent-Length: 5\r\n\r\n12345",
    "nul in a header": b"X-A: \x00\r\nContent-Length: 5\r\n\r\n12345",
    "bare CR": b"X-A: a\rContent-Length: 5\r\n\r\n",
    "signed chunk": b"Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
    "hex chunk": b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    "negative chunk": b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
    "underscored chunk": b"Transfer-Encoding: chunked\r\n\r\n0_5\r\nhello\r\n0\r\n\r\n",
    "huge chunk": b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "too short a chunk": b"Transfer-Encoding: chunked\r\n\r\n4\r\nhello\r\n0\r\n\r\n",
    "endless size line": b"Transfer-Encoding: chunked\r\n\r\n5;" + b"a" * 5000,
}


async def refused(request: bytes, status: int, code: str | None = None, **settings: Any) -> Frame:
    """One request that is answered so, ends its connection, and reaches nobody."""
    async with start_stage(**settings) as stage:
        reader, writer = await stage.proxy.connect()
        writer.write(request)
        answer = await read_frame(reader)
        assert answer.status == status, answer
        assert answer.headers.get("connection") == "close"
        if code is not None:
            assert answer.error["code"] == code
        assert b"HTTP/1.1 200" not in await closed(reader)
        assert not stage.prefill.visits
        assert not stage.decode.visits
        writer.close()
        return answer


@pytest.mark.parametrize("name", SMUGGLED)
async def test_a_request_of_two_readings_is_refused_and_ends_its_connection(name: str) -> None:
    request = b"POST /generate HTTP/1.1\r\nHost: x\r\n" + SMUGGLED[name]
    behind = b"" if name == "endless size line" else post()
    await refused(request + behind, 400, "invalid_request")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b'POST /generate HTTP/1.1\r\nContent-Length: 12\r\n\r\n{"text":"a"}',
        b"POST /generate HTTP/3.7\r\nHost: x\r\n\r\n",
        b"POST /generate FTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /generate HTTP/1.1\nHost: x\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nHost x\r\n\r\n",
        b"POST /generate HTTP/1.1\r\n: x\r\n\r\n",
    ],
)
async def test_a_malformed_head_is_a_400(request_bytes: bytes) -> None:
    await refused(request_bytes, 400, "invalid_request")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"BREW /generate HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\r\n\r\n",
    ],
)
async def test_what_is_no_http_1_is_refused(request_bytes: bytes) -> None:
    async with start_stage() as stage:
        said = await stage.proxy.says(request_bytes)
        assert said.split(b" ")[1] in (b"400", b"405"), said
        assert not stage.decode.visits


async def test_too_long_a_body_is_a_413_before_it_is_sent() -> None:
    head = b"POST /generate HTTP/1.1\r\nHost: x\r\n%bContent-Length: 2001\r\n\r\n"
    for expect in (b"", b"Expect: 100-continue\r\n"):
        await refused(head % expect, 413, "body_too_large", limits={"body_bytes": 2000})


async def test_too_long_a_body_that_comes_with_its_head_is_a_413() -> None:
    await refused(post(b'{"text":"%b"}' % (b"x" * 1990)), 413, "body_too_large", limits={"body_bytes": 2000})


async def test_too_long_a_body_in_chunks_is_a_413_before_its_end() -> None:
    unfinished = post_chunked(b"x" * 1200, b"x" * 1200)[:-5]
    await refused(unfinished, 413, "body_too_large", limits={"body_bytes": 2000})


async def test_a_body_at_its_limit_is_taken() -> None:
    body = b'{"text":"%b"}' % (b"x" * 1989)
    async with start_stage(limits={"body_bytes": 2000}) as stage:
        assert len(body) == 2000
        assert (await ask(stage.proxy, post(body))).status == 200
        assert (await ask(stage.proxy, post_chunked(body[:3], body[3:]))).status == 200


async def test_the_413_is_read_by_a_client_that_still_sends() -> None:
    async with start_stage(limits={"body_bytes": 100_000}) as stage:
        reader, writer = await stage.proxy.connect()
        writer.write(post(b"x" * 5_000_000))
        assert (await read_frame(reader)).status == 413
        writer.close()


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
async def test_too_long_a_head_is_a_431(end: bytes) -> None:
    request = b"POST /generate HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 3000 + end
    await refused(request, 431, "headers_too_large", limits={"head_bytes": 2000})


async def test_too_many_headers_are_a_431() -> None:
    lines = [b"X-%d: a" % number for number in range(20)]
    await refused(post(b"{}", *lines), 431, "headers_too_large", limits={"head_count": 20})


async def test_a_slow_head_is_a_408() -> None:
    await refused(b"POST /generate HTTP/1.1\r\nHo", 408, "request_timeout", limits={"head_s": 0.2})


async def test_a_head_that_trickles_is_a_408() -> None:
    async with start_stage(limits={"head_s": 0.3}) as stage:
        reader, writer = await stage.proxy.connect()
        for byte in b"POST /generate HTTP/1.1\r\nX-Long: " + b"a" * 1000:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)
            if reader._buffer:  # type: ignore[attr-defined]
                break
        assert (await read_frame(reader)).status == 408
        writer.close()


async def test_a_slow_body_is_a_408() -> None:
    await refused(post(b'{"text":"a"}')[:-3], 408, "request_timeout", limits={"body_s": 0.2})


async def test_a_body_that_trickles_is_a_408_in_the_end() -> None:
    async with start_stage(limits={"body_s": 5, "body_total_s": 0.4}) as stage:
        reader, writer = await stage.proxy.connect()
        writer.write(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n")
        while not reader._buffer:  # type: ignore[attr-defined]
            writer.write(b"x")
            await asyncio.sleep(0.02)
        assert (await read_frame(reader)).status == 408
        writer.close()


async def test_an_idle_connection_is_closed_in_time() -> None:
    async with start_stage(limits={"keep_alive_s": 0.3}) as stage:
        reader, writer = await stage.proxy.connect()
        writer.write(post())
        assert (await read_frame(reader)).status == 200
        assert await closed(reader, 5) == b""
        writer.close()


async def test_too_many_connections_are_told_so() -> None:
    async with start_stage(server={"max_connections": 2}) as stage:
        held = [await stage.proxy.connect() for _ in range(2)]
        await eventually(lambda: len(stage.proxy.service.door.connections) == 2)
        reader, writer = await stage.proxy.connect()
        answer = await read_frame(reader)
        assert (answer.status, answer.error["code"]) == (503, "overloaded")
        assert "retry-after" in answer.headers
        for _, one in held:
            one.close()
        await eventually(lambda: not stage.proxy.service.door.connections)
        assert (await ask(stage.proxy, post())).status == 200
        writer.close()


async def test_more_bytes_than_may_be_held_are_a_503() -> None:
    async with start_stage(limits={"held_bytes": 2000}) as stage:
        reader, writer = await stage.proxy.connect()
        writer.write(post(b"x" * 1600)[:-1])
        await eventually(lambda: stage.proxy.service.ledger.held_bytes == 1600)
        for request in (post(b"x" * 1600), post_chunked(b"x" * 700, b"x" * 700)):
            answer = await ask(stage.proxy, request)
            assert (answer.status, answer.error["code"]) == (503, "overloaded")
        writer.close()
        await eventually(lambda: stage.proxy.service.ledger.held_bytes == 0)
        assert (await ask(stage.proxy, post())).status == 200
        del reader


BAD_BODIES = [
    b"",
    b"null",
    b"[]",
    b'"text"',
    b"{",
    b"{}",
    b'{"text":"a"} x',
    b'{"text":"a","stream":"yes"}',
    b'{"text":"a","rid":7}',
    b'{"text":"a","sampling_params":{"n":"2"}}',
    b'{"text":"a","sampling_params":{"n":0}}',
    b'{"text":"a","sampling_params":{"n":1000000}}',
    b'{"text":"a","return_logprob":"x"}',
    b"\xff\xfe",
    b'{"text":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=range(len(BAD_BODIES)))
async def test_a_bad_body_is_a_400_that_keeps_the_connection_and_touches_no_worker(body: bytes) -> None:
    async with start_stage() as stage:
        reader, writer = await stage.proxy.connect()
        writer.write(post(body))
        answer = await read_frame(reader)
        assert answer.status == 400
        assert answer.error["type"] == "invalid_request_error"
        assert not stage.prefill.visits
        assert not stage.decode.visits
        writer.write(post())
        assert (await read_frame(reader)).status == 200
        writer.close()


async def test_a_missing_or_wrong_key_is_a_401() -> None:
    async with start_stage(server={"api_key": "secret"}) as stage:
        for headers in ([], [b"Authorization: Bearer wrong"], [b"Authorization: secret"]):
            answer = await ask(stage.proxy, post(b'{"text":"a"}', *headers))
            assert (answer.status, answer.error["code"]) == (401, "unauthorized")
        assert not stage.decode.visits
        assert (await ask(stage.proxy, post(b'{"text":"a"}', b"Authorization: Bearer secret"))).status == 200


async def test_n_above_the_setting_is_a_400() -> None:
    async def one(visit: Visit) -> None:
        await visit.say(whole(b'{"text":"a","meta_info":{"completion_tokens":1}}'))

    async with start_stage(one, one, limits={"fan_out": 4}) as stage:
        answer = await ask(stage.proxy, post(b'{"text":"a","sampling_params":{"n":5}}'))
        assert (answer.status, answer.error["param"]) == (400, "n")
