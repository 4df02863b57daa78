"""A client that does not keep up stops the reading of its worker, fills no memory, and is cut in time."""

from __future__ import annotations

import asyncio
import socket

from tests.flow.scripted import (
    DONE,
    EVENT_HEAD,
    LAST,
    Frame,
    Stage,
    Visit,
    chunked,
    event,
    post,
    read_frame,
    start_stage,
    whole,
)
from tests.support.proxies import eventually

STREAM = post(b'{"text":"a","stream":true}')
EVENT = event("x" * 4000)
FRAMED = chunked(EVENT)
MANY = 5000
"""Twenty megabytes: more than all sockets on the way hold."""


class Flood:
    """A decode that streams as much as it is let."""

    def __init__(self) -> None:
        self.sent = 0

    async def __call__(self, visit: Visit) -> None:
        await visit.say(EVENT_HEAD)
        for _ in range(MANY):
            await visit.say(FRAMED)
            self.sent += 1
        await visit.say(chunked(DONE) + LAST)


async def narrow(stage: Stage) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection whose client takes little at a time."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", stage.proxy.port))
    return await asyncio.open_connection(sock=sock, limit=8192)


async def stands_still(flood: Flood) -> None:
    """Waits until nothing more is taken from the worker."""
    last, same = -1, 0
    async with asyncio.timeout(20):
        while same < 10:
            same = same + 1 if flood.sent == last and flood.sent else 0
            last = flood.sent
            await asyncio.sleep(0.02)
    assert flood.sent < MANY, "the worker was read to its end for nobody"


def buffered(stage: Stage) -> int:
    """Bytes that the proxy itself holds for its clients."""
    return sum(
        connection._transport.get_write_buffer_size() for connection in stage.proxy.service.door.connections
    )


async def test_a_slow_client_stops_the_reading_and_then_gets_everything() -> None:
    flood = Flood()
    async with start_stage(flood) as stage:
        reader, writer = await stage.proxy.connect()
        writer.write(STREAM)
        await stands_still(flood)
        assert buffered(stage) < 1_000_000
        answer = await read_frame(reader, 30)
        assert answer.body == EVENT * MANY + DONE
        writer.close()


async def test_the_between_chunks_clock_stands_still_while_the_client_does_not_keep_up() -> None:
    flood = Flood()
    async with start_stage(flood, upstream={"between_chunks_s": 0.3}) as stage:
        reader, writer = await narrow(stage)
        writer.write(STREAM)
        await stands_still(flood)
        await asyncio.sleep(0.9)
        answer = await read_frame(reader, 30)
        assert answer.body == EVENT * MANY + DONE
        writer.close()


async def test_a_client_that_takes_nothing_is_cut_in_time_and_both_legs_end() -> None:
    flood = Flood()
    async with start_stage(flood, limits={"client_stall_s": 0.4}) as stage:
        _, writer = await narrow(stage)
        writer.write(STREAM)
        await eventually(lambda: flood.sent)
        await eventually(lambda: not stage.proxy.service.door.connections)
        await eventually(lambda: not stage.decode.live)
        writer.close()


async def test_a_whole_answer_to_a_client_that_takes_nothing_is_cut_too() -> None:
    async def script(visit: Visit) -> None:
        await visit.say(whole(b'{"text":"%b"}' % (b"y" * 20_000_000)))

    async with start_stage(script, limits={"client_stall_s": 0.4}) as stage:
        for headers in ([], [b"Connection: close"]):
            _, writer = await narrow(stage)
            writer.write(post(b'{"text":"a"}', *headers))
            await eventually(lambda: stage.proxy.service.door.busy)
            await eventually(lambda: not stage.proxy.service.door.connections)
            writer.close()


async def last_chunk_at_once(visit: Visit) -> None:
    """A stream whose one chunk is more than a transport likes to hold."""
    await visit.say(EVENT_HEAD + chunked(event("x" * 6_000_000), DONE) + LAST)


async def test_an_ended_stream_that_nobody_takes_holds_back_the_next_request() -> None:
    async with start_stage(last_chunk_at_once) as stage:
        reader, writer = await narrow(stage)
        writer.write(STREAM * 5)
        await eventually(lambda: stage.decode.visits)
        await asyncio.sleep(0.3)
        assert len(stage.decode.visits) == 1
        answers: list[Frame] = [await read_frame(reader, 20) for _ in range(5)]
        assert {len(answer.body) for answer in answers} == {len(event("x" * 6_000_000)) + len(DONE)}
        writer.close()


async def test_an_ended_stream_that_nobody_takes_is_cut_in_time() -> None:
    async with start_stage(last_chunk_at_once, limits={"client_stall_s": 0.4}) as stage:
        for headers in ([], [b"Connection: close"]):
            _, writer = await narrow(stage)
            writer.write(post(b'{"text":"a","stream":true}', *headers))
            await eventually(lambda: stage.proxy.service.door.connections)
            await eventually(lambda: not stage.proxy.service.door.connections)
            writer.close()


async def test_a_client_that_sends_bad_requests_and_reads_no_answer_fills_no_memory() -> None:
    async with start_stage() as stage:
        _, writer = await narrow(stage)
        bad = post(b"{}") * 500
        for _ in range(200):
            writer.write(bad)
            try:
                async with asyncio.timeout(0.5):
                    await writer.drain()
            except (TimeoutError, ConnectionError):
                break
            assert buffered(stage) < 1_000_000
        await asyncio.sleep(0.1)
        assert buffered(stage) < 1_000_000
        writer.transport.abort()
