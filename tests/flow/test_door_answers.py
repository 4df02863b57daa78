"""Answers as bytes: what a worker sends reaches the client true, or ends in a way the client can read."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.flow.scripted import (
    ANSWER,
    DONE,
    EVENT_HEAD,
    LAST,
    Script,
    Visit,
    ask,
    chunked,
    closed,
    event,
    post,
    read_frame,
    read_head,
    start_stage,
    stream_of,
    whole,
)
from tests.support.proxies import eventually

STREAM = post(b'{"text":"a","stream":true}')
EVENTS = [event(text) for text in ("a", "b\u00e9", "c")]
ALL = b"".join(EVENTS) + DONE
FRAMINGS: dict[str, bytes] = {
    "an event a chunk": chunked(*EVENTS, DONE) + LAST,
    "two events a chunk": chunked(EVENTS[0] + EVENTS[1], EVENTS[2] + DONE) + LAST,
    "an event over two chunks": chunked(EVENTS[0][:9], EVENTS[0][9:] + EVENTS[1], EVENTS[2], DONE) + LAST,
    "a chunk a byte": chunked(*[bytes([byte]) for byte in ALL]) + LAST,
    "all in one chunk": chunked(ALL) + LAST,
    "extensions": b"".join(b"%x;a=1\r\n%b\r\n" % (len(one), one) for one in (*EVENTS, DONE)) + LAST,
    "upper case and zeros": b"".join(b"%08X\r\n%b\r\n" % (len(one), one) for one in (*EVENTS, DONE)) + LAST,
    "a trailer": chunked(*EVENTS, DONE) + b"0\r\nX-Sum: 1\r\n\r\n",
}


@pytest.mark.parametrize("name", FRAMINGS)
@pytest.mark.parametrize("step", [1, 50, 100_000])
async def test_a_stream_arrives_true_however_it_is_framed_and_cut(name: str, step: int) -> None:
    framed = EVENT_HEAD + FRAMINGS[name]

    async def script(visit: Visit) -> None:
        for start in range(0, len(framed), step):
            await visit.say(framed[start : start + step])
            await asyncio.sleep(0)

    async with start_stage(script) as stage:
        for _ in range(2):
            answer = await ask(stage.proxy, STREAM)
            assert (answer.status, answer.body) == (200, ALL)
        assert len({v.connection for v in stage.decode.visits}) == 1, "the connection was in order to its end"


async def test_plain_chunks_go_on_byte_by_byte_as_they_came() -> None:
    framed = b"".join(b"%08x\r\n%b\r\n" % (len(one), one) for one in (*EVENTS, DONE)) + LAST
    async with start_stage(stream_of(framed)) as stage:
        said = await stage.proxy.says(post(b'{"text":"a","stream":true}', b"Connection: close"))
        assert said.partition(b"\r\n\r\n")[2] == framed


async def test_an_event_goes_on_as_soon_as_it_is_whole() -> None:
    go_on = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.say(EVENT_HEAD + chunked(EVENTS[0]))
        await go_on.wait()
        await visit.say(chunked(EVENTS[1], DONE) + LAST)

    async with start_stage(script) as stage:
        reader, writer = await stage.proxy.connect()
        writer.write(STREAM)
        async with asyncio.timeout(5):
            await read_head(reader)
            assert await reader.readexactly(len(chunked(EVENTS[0]))) == chunked(EVENTS[0])
        go_on.set()
        assert await reader.readuntil(LAST) == chunked(EVENTS[1], DONE) + LAST
        writer.close()


WHOLES: dict[str, bytes] = {
    "a length": whole(ANSWER),
    "chunks": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    + chunked(ANSWER[:5], ANSWER[5:])
    + LAST,
    "continue first": b"HTTP/1.1 100 Continue\r\n\r\n" + whole(ANSWER),
    "hints first": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 3 + whole(ANSWER),
    "close": whole(ANSWER, b"Connection: close"),
}


@pytest.mark.parametrize("name", WHOLES)
@pytest.mark.parametrize("step", [1, 100_000])
async def test_a_whole_answer_arrives_true_however_it_is_framed_and_cut(name: str, step: int) -> None:
    async def script(visit: Visit) -> None:
        for start in range(0, len(WHOLES[name]), step):
            await visit.say(WHOLES[name][start : start + step])
            await asyncio.sleep(0)

    async with start_stage(script) as stage:
        answer = await ask(stage.proxy, post())
        assert (answer.status, answer.body) == (200, ANSWER)
        assert answer.headers["content-length"] == str(len(ANSWER))
        assert answer.headers["content-type"] == "application/json"


async def test_a_huge_answer_arrives_whole() -> None:
    body = json.dumps({"text": "y" * 8_000_000}).encode()

    async def script(visit: Visit) -> None:
        await visit.say(whole(body))

    async with start_stage(script) as stage:
        answer = await ask(stage.proxy, post())
        assert answer.body == body


async def test_an_answer_too_large_to_hold_is_relayed_as_it_comes() -> None:
    body = json.dumps({"text": "y" * 8_000_000}).encode()

    async def script(visit: Visit) -> None:
        await visit.say(whole(body))

    async with start_stage(script, limits={"answer_bytes": 1_000_000}) as stage:
        answer = await ask(stage.proxy, post())
        assert answer.body == body


async def test_a_huge_event_arrives_whole() -> None:
    huge = event("z" * 5_000_000)
    async with start_stage(stream_of(chunked(EVENTS[0], huge, DONE) + LAST)) as stage:
        assert (await ask(stage.proxy, STREAM)).body == EVENTS[0] + huge + DONE


def first_fails(failing: Script) -> Script:
    """The first request meets `failing`, the others a good worker."""

    async def script(visit: Visit) -> None:
        if visit.number == 0:
            await failing(visit)
        else:
            await visit.say(whole(ANSWER))

    return script


async def _reset(visit: Visit) -> None:
    visit.reset()


async def _close(visit: Visit) -> None:
    visit.writer.close()


def _says_and_closes(said: bytes) -> Script:
    async def script(visit: Visit) -> None:
        await visit.say(said)
        visit.writer.close()

    return script


EARLY: dict[str, Script] = {
    "reset": _reset,
    "closed": _close,
    "half a head": _says_and_closes(b"HTTP/1.1 200 OK\r\nContent-"),
    "no http": _says_and_closes(b"SSH-2.0-OpenSSH\r\n\r\n"),
    "a status of letters": _says_and_closes(b"HTTP/1.1 abc OK\r\n\r\n"),
    "a bad length": _says_and_closes(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"),
    "an endless head": _says_and_closes(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000),
    "half a body": _says_and_closes(whole(ANSWER)[:-3]),
    "a 204": _says_and_closes(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "nothing": _says_and_closes(whole(b"")),
    "a stream without events": _says_and_closes(EVENT_HEAD),
    "a stream that is over": _says_and_closes(EVENT_HEAD + LAST),
    "half an event": _says_and_closes(EVENT_HEAD + chunked(EVENTS[0])[:-9]),
    "a bad chunk": _says_and_closes(EVENT_HEAD + b"xyz\r\n"),
}


@pytest.mark.parametrize("name", EARLY)
async def test_what_breaks_before_the_first_token_is_hidden(name: str) -> None:
    async with start_stage(first_fails(EARLY[name])) as stage:
        answer = await ask(stage.proxy, STREAM)
        assert (answer.status, answer.body) == (200, ANSWER), answer
        assert len(stage.decode.visits) == 2


LATE: dict[str, bytes] = {
    "after an event": chunked(EVENTS[0]),
    "in a size line": chunked(EVENTS[0]) + b"2",
    "in an event": chunked(EVENTS[0]) + chunked(EVENTS[1])[:12],
    "in a chunk's end": chunked(EVENTS[0]) + chunked(EVENTS[1])[:-1],
    "between the two halves of an event": chunked(EVENTS[0], EVENTS[1][:9]),
    "in garbage": chunked(EVENTS[0]) + b"what?\r\n",
    "after a chunk that is longer than its size": chunked(EVENTS[0]) + b"3\r\n" + EVENTS[1] + b"\r\n",
}


@pytest.mark.parametrize("name", LATE)
@pytest.mark.parametrize("cut", [b"close", b"reset"])
async def test_a_stream_that_breaks_in_the_middle_ends_with_an_error_and_a_proper_end(
    name: str, cut: bytes
) -> None:
    async def script(visit: Visit) -> None:
        await visit.say(EVENT_HEAD + LATE[name])
        await asyncio.sleep(0.05)
        if cut == b"reset":
            visit.reset()
        else:
            visit.writer.close()

    async with start_stage(script, retries={"continuation": "off"}) as stage:
        reader, writer = await stage.proxy.connect()
        writer.write(STREAM)
        answer = await read_frame(reader)
        first, error, done, rest = answer.body.split(b"\n\n")
        assert first + b"\n\n" == EVENTS[0]
        assert json.loads(error[6:])["error"]["code"] == "truncated_midstream"
        assert (done, rest) == (b"data: [DONE]", b"")
        assert len(stage.decode.visits) == 1
        writer.write(post(b"{}"))
        assert (await read_frame(reader)).status == 400, "the connection is in order"
        writer.close()


async def test_a_body_that_is_no_stream_and_breaks_after_it_began_cuts_the_client() -> None:
    body = whole(json.dumps({"text": "y" * 3_000_000}).encode())

    async def script(visit: Visit) -> None:
        await visit.say(body[:-10])
        visit.writer.close()

    async with start_stage(script, limits={"answer_bytes": 1_000_000}) as stage:
        reader, writer = await stage.proxy.connect()
        writer.write(post())
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await read_frame(reader)
        writer.close()


async def test_a_workers_connection_is_used_again() -> None:
    async with start_stage() as stage:
        for _ in range(5):
            assert (await ask(stage.proxy, post())).status == 200
        assert len({visit.connection for visit in stage.decode.visits}) == 1
        assert len({visit.connection for visit in stage.prefill.visits}) == 1


@pytest.mark.parametrize(
    "answer",
    [whole(ANSWER, b"Connection: close"), whole(ANSWER).replace(b"1.1", b"1.0"), whole(ANSWER) + b"x"],
)
async def test_a_connection_that_a_worker_ends_or_spoils_is_not_used_again(answer: bytes) -> None:
    async def script(visit: Visit) -> None:
        await visit.say(answer)

    async with start_stage(script) as stage:
        for _ in range(2):
            assert (await ask(stage.proxy, post())).body == ANSWER
        first, second = stage.decode.visits
        assert first.connection != second.connection


@pytest.mark.parametrize("role", ["prefill", "decode"])
async def test_each_leg_is_sent_once_where_only_the_other_has_an_idle_connection(role: str) -> None:
    async def closing(visit: Visit) -> None:
        await visit.say(whole(ANSWER, b"Connection: close"))

    scripts = {role: closing}
    async with start_stage(**scripts) as stage:  # type: ignore[arg-type]
        for _ in range(3):
            assert (await ask(stage.proxy, post())).body == ANSWER
        visits = {"prefill": stage.prefill.visits, "decode": stage.decode.visits}
        sent = {at: [visit.body for visit in seen] for at, seen in visits.items()}
        assert sent["prefill"] == sent["decode"]
        assert len(set(sent["prefill"])) == 3
        connections = {at: {visit.connection for visit in seen} for at, seen in visits.items()}
        assert {at: len(used) for at, used in connections.items()} == {"prefill": 1, "decode": 1} | {role: 3}


async def test_a_connection_idle_for_too_long_is_not_used_again() -> None:
    async with start_stage(upstream={"idle_reuse_s": 0.1}) as stage:
        await ask(stage.proxy, post())
        await asyncio.sleep(0.15)
        await ask(stage.proxy, post())
        first, second = stage.decode.visits
        assert first.connection != second.connection


async def test_idle_connections_are_closed_by_themselves() -> None:
    async with start_stage(upstream={"idle_reuse_s": 0.1}) as stage:
        await ask(stage.proxy, post())
        carriers = stage.proxy.service.carriers
        await eventually(lambda: carriers.open == carriers.idle == 0)


@pytest.mark.parametrize("role", ["prefill", "decode"])
async def test_a_reused_connection_that_closes_just_then_is_retried_unseen(role: str) -> None:
    async def stale(visit: Visit) -> None:
        if visit.number == 1:
            visit.writer.close()
        else:
            await visit.say(whole(ANSWER))

    scripts = {role: stale}
    async with start_stage(retries={"enabled": False}, **scripts) as stage:  # type: ignore[arg-type]
        for _ in range(3):
            assert (await ask(stage.proxy, post())).status == 200
        assert [line["outcome"] for line in stage.proxy.lines] == ["ok"] * 3
        assert [line["attempts"] for line in stage.proxy.lines] == [1] * 3


async def test_what_a_worker_says_unasked_on_an_idle_connection_spoils_only_that() -> None:
    async def script(visit: Visit) -> None:
        await visit.say(whole(ANSWER))
        if visit.number == 0:
            await asyncio.sleep(0.05)
            await visit.say(whole(b'{"text":"another\'s"}'))

    async with start_stage(script) as stage:
        assert (await ask(stage.proxy, post())).body == ANSWER
        await asyncio.sleep(0.15)
        assert (await ask(stage.proxy, post())).body == ANSWER


async def test_a_workers_own_error_is_shown_as_it_said_it() -> None:
    said = b'{"error":{"message":"too long","code":400}}'

    async def script(visit: Visit) -> None:
        await visit.say(whole(said, status=b"400 Bad Request"))

    async with start_stage(script, script) as stage:
        answer = await ask(stage.proxy, post())
        assert (answer.status, answer.body) == (400, said)


async def test_an_error_closes_nothing_but_its_own_request() -> None:
    async def script(visit: Visit) -> None:
        if visit.number == 0:
            await visit.say(whole(b'{"detail":"no"}', status=b"422 Unprocessable Entity"))
        else:
            await visit.say(whole(ANSWER))

    async with start_stage(script) as stage:
        reader, writer = await stage.proxy.connect()
        statuses = []
        for _ in range(2):
            writer.write(post())
            statuses.append((await read_frame(reader)).status)
        assert statuses == [422, 200]
        writer.close()
        assert await closed(reader) == b""
