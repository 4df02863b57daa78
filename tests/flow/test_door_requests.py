"""Requests as bytes: however they are cut and framed, the workers get the same, in order."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.flow.scripted import (
    ANSWER,
    DONE,
    LAST,
    Visit,
    ask,
    chunked,
    closed,
    event,
    frames_of,
    post,
    post_chunked,
    read_frame,
    read_head,
    start_stage,
    stream_of,
    whole,
)

BODY = b'{"text":"hello","odd":[1, 2,  {"a":"\\u00e9"}]}'


async def echo(visit: Visit) -> None:
    """Answers with a text that names the request's."""
    said = json.loads(visit.body)["text"]
    await visit.say(whole(json.dumps({"text": said}).encode()))


async def echo_slowly(visit: Visit) -> None:
    await asyncio.sleep(0.05 if visit.number == 0 else 0)
    await echo(visit)


@pytest.mark.parametrize(
    "request_bytes",
    [post(BODY), post_chunked(BODY), post_chunked(BODY[:7], BODY[7:9], BODY[9:])],
    ids=["length", "one chunk", "three chunks"],
)
@pytest.mark.parametrize("step", [1, 7, 100_000])
async def test_a_body_reaches_both_workers_as_it_was_however_it_was_cut(
    request_bytes: bytes, step: int
) -> None:
    async with start_stage() as stage:
        reader, writer = await stage.proxy.connect()
        for start in range(0, len(request_bytes), step):
            writer.write(request_bytes[start : start + step])
            await writer.drain()
            await asyncio.sleep(0)
        answer = await read_frame(reader)
        assert (answer.status, answer.body) == (200, ANSWER)
        for worker in (stage.prefill, stage.decode):
            assert worker.visits[0].body.startswith(BODY[:-1] + b',"bootstrap_host"')
            assert b"transfer-encoding" not in worker.visits[0].head.lower()
        writer.close()


async def test_chunk_extensions_and_trailers_are_understood_and_dropped() -> None:
    raw = (
        b"POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"%x;a=b\r\n%b\r\n0\r\nX-Sum: 1\r\n\r\n" % (len(BODY), BODY)
    )
    async with start_stage() as stage:
        first, second = await frames_of(stage.proxy, raw + post(), answers=2)
        assert (first.status, second.status) == (200, 200)
        assert b"x-sum" not in stage.decode.visits[0].head.lower()


async def test_pipelined_requests_are_answered_in_order() -> None:
    requests = b"".join(post(b'{"text":"%d"}' % number) for number in range(20))
    async with start_stage(echo_slowly) as stage:
        answers = await frames_of(stage.proxy, requests, answers=20)
        assert [json.loads(answer.body)["text"] for answer in answers] == [str(n) for n in range(20)]


async def test_pipelined_requests_cut_anywhere_are_answered_in_order() -> None:
    requests = b"".join(post_chunked(b'{"text":"%d"}' % number) for number in range(5))
    pieces = [requests[start : start + 50] for start in range(0, len(requests), 50)]
    async with start_stage(echo) as stage:
        answers = await frames_of(stage.proxy, *pieces, answers=5, between_s=0.001)
        assert [json.loads(answer.body)["text"] for answer in answers] == [str(n) for n in range(5)]


async def test_a_bad_request_between_good_ones_gets_its_answer_in_its_place() -> None:
    async with start_stage(echo) as stage:
        answers = await frames_of(
            stage.proxy, post(b'{"text":"a"}') + post(b"{no json") + post(b'{"text":"b"}'), answers=3
        )
        assert [answer.status for answer in answers] == [200, 400, 200]
        assert json.loads(answers[2].body)["text"] == "b"


async def test_a_stream_and_then_a_pipelined_request_do_not_mix() -> None:
    async def script(visit: Visit) -> None:
        if visit.number == 0:
            await stream_of(chunked(event("a")), chunked(event("b")), chunked(DONE) + LAST, between_s=0.01)(
                visit
            )
        else:
            await echo(visit)

    requests = post(b'{"text":"a","stream":true}') + post(b'{"text":"second"}')
    async with start_stage(script) as stage:
        first, second = await frames_of(stage.proxy, requests, answers=2)
        assert first.body == event("a") + event("b") + DONE
        assert json.loads(second.body)["text"] == "second"


async def test_more_than_64_kib_behind_a_running_request_cuts_the_client() -> None:
    async def never(visit: Visit) -> None:
        await visit.gone()

    async with start_stage(never, never) as stage:
        reader, writer = await stage.proxy.connect()
        writer.write(post())
        await writer.drain()
        while not stage.decode.visits:
            await asyncio.sleep(0.01)
        writer.write(b"x" * 60_000)
        await writer.drain()
        await asyncio.sleep(0.1)
        assert stage.decode.live == 1, "what fits is held"
        writer.write(b"x" * 10_000)
        assert await closed(reader) == b""


async def test_expect_100_continue_is_answered_before_the_body() -> None:
    async with start_stage() as stage:
        reader, writer = await stage.proxy.connect()
        head, _, body = post(BODY, b"Expect: 100-continue").partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        assert (await asyncio.wait_for(read_head(reader), 5))[0] == 100
        writer.write(body)
        assert (await read_frame(reader)).status == 200
        assert b"expect" not in stage.decode.visits[0].head.lower()
        writer.close()


async def test_expect_is_not_answered_where_the_body_came_along() -> None:
    async with start_stage() as stage:
        assert (await ask(stage.proxy, post(BODY, b"Expect: 100-continue"))).status == 200


async def test_an_http_1_0_client_gets_a_plain_body_until_the_end() -> None:
    script = stream_of(chunked(event("a"), event("b")), chunked(DONE) + LAST)
    async with start_stage(script) as stage:
        said = await stage.proxy.says(post(b'{"text":"a","stream":true}', version=b"1.0"))
        head, _, body = said.partition(b"\r\n\r\n")
        assert b"chunked" not in head.lower()
        assert b"content-length" not in head.lower()
        assert body == event("a") + event("b") + DONE


async def test_an_http_1_0_client_without_a_host_is_served() -> None:
    async with start_stage() as stage:
        said = await stage.proxy.says(b'POST /generate HTTP/1.0\r\nContent-Length: 12\r\n\r\n{"text":"a"}')
        assert said.startswith(b"HTTP/1.1 200")


async def test_connection_close_is_obeyed_and_told() -> None:
    async with start_stage() as stage:
        said = await stage.proxy.says(post(BODY, b"Connection: close"))
        assert b"\r\nconnection: close\r\n" in said.lower()
        assert said.endswith(ANSWER)


async def test_a_kept_connection_serves_many() -> None:
    async with start_stage() as stage:
        reader, writer = await stage.proxy.connect()
        for _ in range(5):
            writer.write(post())
            answer = await read_frame(reader)
            assert answer.status == 200
            assert "connection" not in answer.headers
        assert len(stage.proxy.service.door.connections) == 1
        writer.close()


async def test_empty_lines_before_a_request_are_skipped() -> None:
    async with start_stage() as stage:
        answers = await frames_of(stage.proxy, b"\r\n\r\n", post() + b"\r\n", post(), answers=2)
        assert [answer.status for answer in answers] == [200, 200]


async def test_the_control_plane_answers_on_the_same_port_and_closes() -> None:
    async with start_stage() as stage:
        said = await stage.proxy.says(b"GET /liveness HTTP/1.1\r\nHost: x\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 200")
        assert b"\r\nconnection: close\r\n" in said.lower()


async def test_a_kept_connection_is_handed_over_when_it_asks_something_else() -> None:
    async with start_stage() as stage:
        reader, writer = await stage.proxy.connect()
        writer.write(post())
        assert (await read_frame(reader)).status == 200
        writer.write(b"GET /liveness HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await read_frame(reader)).status == 200
        assert await closed(reader) == b""
        assert not stage.proxy.service.door.connections
        writer.close()


async def test_a_control_request_pipelined_behind_a_data_request_is_answered_after_it() -> None:
    async with start_stage(echo_slowly) as stage:
        said = await stage.proxy.says(
            post(b'{"text":"first"}') + b"GET /liveness HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        first, _, second = said.partition(b'{"text": "first"}')
        assert first.startswith(b"HTTP/1.1 200")
        assert second.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"PATCH"])
@pytest.mark.parametrize("path", [b"/generate", b"/v1/chat/completions"])
async def test_other_methods_on_data_routes_touch_no_worker(method: bytes, path: bytes) -> None:
    async with start_stage() as stage:
        said = await stage.proxy.says(b"%b %b HTTP/1.1\r\nHost: x\r\n\r\n" % (method, path))
        assert said.split(b" ")[1] in (b"405", b"200", b"204"), said
        if method != b"OPTIONS":
            assert said.startswith(b"HTTP/1.1 405")
            assert b"\r\nallow: " in said.lower()
        if method == b"HEAD":
            assert said.endswith(b"\r\n\r\n")
        assert not stage.decode.visits


async def test_a_large_body_arrives_whole_at_both() -> None:
    text = "x" * 5_000_000
    body = json.dumps({"text": text}).encode()
    async with start_stage() as stage:
        for request in (post(body), post_chunked(body[:1_000_001], body[1_000_001:])):
            assert (await ask(stage.proxy, request)).status == 200
        for visit in (*stage.prefill.visits, *stage.decode.visits):
            assert visit.body.startswith(body[:-1])
            assert json.loads(visit.body)["text"] == text
