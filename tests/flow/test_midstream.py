"""A stream that breaks and is not continued ends as its client can understand: an error, and an end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.flow.talk import GENERATE, ROUTES, ask, body_for, opened, start_fleet, texts
from tests.support.engines import BOTH_GENERATIONS, expected
from tests.support.proxies import eventually

routes = pytest.mark.parametrize("route", ROUTES)
generations = pytest.mark.parametrize("version", BOTH_GENERATIONS)
OFF = {"retries": {"continuation": "off"}}
BREAKS: dict[str, dict[str, Any]] = {
    "truncate": {"after_events": 4},
    "reset": {"after_bytes": 1500},
    "die": {"after_events": 4},
}


@routes
@generations
@pytest.mark.parametrize("kind", BREAKS)
async def test_a_broken_stream_ends_with_an_error_event_and_done(route: str, version: str, kind: str) -> None:
    async with start_fleet(settings=OFF, engine_version=version) as fleet:
        await fleet.decodes[0].fault(kind, **BREAKS[kind])
        got = await ask(fleet.http, route, body_for(route, tokens=50, stream=True))
        assert got.status == 200
        *before, last = got.events
        assert last["error"]["code"] == "truncated_midstream"
        assert last["error"]["type"] == "server_error"
        assert before
        assert fleet.proxy.lines[0]["outcome"] == "truncated_midstream"
        assert fleet.proxy.lines[0]["status"] == 200


async def test_what_came_before_the_break_is_right() -> None:
    async with start_fleet(settings=OFF) as fleet:
        await fleet.decodes[0].fault("truncate", after_events=5)
        got = await ask(fleet.http, GENERATE, body_for(GENERATE, tokens=50, stream=True))
        told = got.events[-2]["text"]
        assert told
        assert expected(body_for(GENERATE)["text"], 50).startswith(told)


@routes
async def test_silence_in_the_middle_of_a_stream_has_its_limit(route: str) -> None:
    async with start_fleet(settings={"upstream": {"between_chunks_s": 0.4}, **OFF}) as fleet:
        await fleet.decodes[0].fault("hang", after_events=4)
        got = await ask(fleet.http, route, body_for(route, tokens=50, stream=True))
        assert got.events[-1]["error"]["code"] == "stall"
        await eventually(lambda: not fleet.decodes[0].engine.state()["live"])


async def test_a_stream_that_is_slow_but_alive_has_no_limit() -> None:
    settings = {"upstream": {"between_chunks_s": 0.6, "first_token_s": 0.6}}
    async with start_fleet(settings=settings, decode_ms_per_token=100) as fleet:
        got = await ask(fleet.http, GENERATE, body_for(GENERATE, tokens=12, stream=True))
        assert texts(GENERATE, got, True) == {0: expected(body_for(GENERATE)["text"], 12)}


@routes
async def test_an_engines_own_error_in_the_stream_is_passed_on(route: str) -> None:
    async with start_fleet(settings=OFF) as fleet:
        await fleet.decodes[0].fault("error_event", after_events=4, message="out of memory")
        got = await ask(fleet.http, route, body_for(route, tokens=50, stream=True))
        assert "out of memory" in got.events[-1]["error"]["message"]


async def test_a_prefill_that_dies_after_the_first_token_harms_nobody() -> None:
    async with (
        start_fleet(decode_ms_per_token=10) as fleet,
        opened(fleet.http, GENERATE, body_for(GENERATE, tokens=40)) as stream,
    ):
        await stream.next()
        await fleet.prefills[0].kill()
        events = await stream.rest()
        assert events[-1]["text"] == expected(body_for(GENERATE)["text"], 40)


async def test_a_connection_goes_on_after_a_broken_stream() -> None:
    async with start_fleet(settings=OFF) as fleet:
        await fleet.decodes[0].fault("truncate", after_events=3, count=1)
        reader, writer = await fleet.proxy.connect()
        body = b'{"text":"x","stream":true,"sampling_params":{"max_new_tokens":9}}'
        request = b"POST /generate HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        for ending in (b"truncated_midstream", b'"length":9'):
            writer.write(request)
            async with asyncio.timeout(5):
                said = await reader.readuntil(b"\r\n0\r\n\r\n")
            assert ending in said
            assert said.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        writer.close()


async def test_a_whole_answer_that_breaks_off_is_made_again() -> None:
    async with start_fleet(1, 2) as fleet:
        await fleet.decodes[0].fault("truncate", count=1)
        await fleet.decodes[1].fault("truncate", count=1)
        got = await ask(fleet.http, GENERATE, body_for(GENERATE, tokens=20))
        assert got.json["text"] == expected(body_for(GENERATE)["text"], 20)
        assert fleet.proxy.lines[0]["attempts"] == 3
