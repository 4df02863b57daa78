"""SIGTERM, in its order: a lame duck that still serves, no more connections, streams finish, then the end."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.flow.scripted import (
    DONE,
    EVENT_HEAD,
    LAST,
    Visit,
    ask,
    chunked,
    closed,
    event,
    post,
    read_frame,
    read_head,
    start_stage,
)
from tests.support.proxies import eventually

STREAM = post(b'{"text":"a","stream":true}')


class Held:
    """A decode whose stream goes on when it is told."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, visit: Visit) -> None:
        await visit.say(EVENT_HEAD + chunked(event("a")))
        waiting = asyncio.ensure_future(self.go_on.wait())
        try:
            await asyncio.wait({waiting, over := asyncio.ensure_future(visit.gone(60))},
                               return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
        finally:
            waiting.cancel()
            over.cancel()
        if self.go_on.is_set():
            await visit.say(chunked(DONE) + LAST)


async def test_a_lame_duck_is_not_ready_and_still_serves_each_connection_for_the_last_time() -> None:
    async with start_stage(server={"lame_duck_s": 30, "drain_s": 5}) as stage:
        reader, writer = await stage.proxy.connect()
        writer.write(post())
        assert "connection" not in (await read_frame(reader)).headers
        stage.proxy.service.leaving.begin("test")
        said = await stage.proxy.says(b"GET /readiness HTTP/1.1\r\nHost: x\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 503")
        writer.write(post())
        assert (await read_frame(reader)).headers["connection"] == "close"
        assert await closed(reader) == b""
        new = await ask(stage.proxy, post())
        assert (new.status, new.headers["connection"]) == (200, "close")
        writer.close()


async def test_after_the_lame_duck_nobody_is_accepted_idle_connections_close_and_streams_finish() -> None:
    held = Held()
    async with start_stage(held, server={"lame_duck_s": 0, "drain_s": 30}) as stage:
        idle, idle_writer = await stage.proxy.connect()
        reader, writer = await stage.proxy.connect()
        writer.write(STREAM)
        await read_head(reader)
        stage.proxy.service.leaving.begin("test")
        assert await closed(idle) == b""

        async def refused() -> bool:
            try:
                _, one = await stage.proxy.connect()
            except ConnectionError:
                return True
            one.close()
            return False

        await eventually(refused)
        assert stage.proxy.service.corridor.in_flight == 1
        held.go_on.set()
        assert await closed(reader) == chunked(event("a")) + chunked(DONE) + LAST
        writer.close()
        idle_writer.close()


@pytest.mark.parametrize("hurried", [False, True])
async def test_the_limit_or_a_second_signal_cuts_what_is_left(hurried: bool) -> None:
    held = Held()
    server = {"lame_duck_s": 60 if hurried else 0, "drain_s": 60 if hurried else 0.3}
    async with start_stage(held, server=server) as stage:
        reader, writer = await stage.proxy.connect()
        writer.write(STREAM)
        await read_head(reader)
        stage.proxy.service.leaving.begin("test")
        if hurried:
            stage.proxy.service.leaving.begin("test")
        assert LAST not in (await closed(reader, 5))[-5:]
        await eventually(lambda: stage.proxy.idle)
        writer.close()


async def test_a_session_that_is_kept_alive_sees_no_error_while_the_proxy_leaves() -> None:
    async with start_stage(server={"lame_duck_s": 1, "drain_s": 5}) as stage:
        async with aiohttp.ClientSession(stage.proxy.url) as http:
            for number in range(20):
                if number == 5:
                    stage.proxy.service.leaving.begin("test")
                async with http.post("/generate", json={"text": "a"}) as answer:
                    assert answer.status == 200
