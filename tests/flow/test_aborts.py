"""What is ended before its time is ended on its workers too, at once; and nothing else is."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from tests.flow.scripted import start_stage
from tests.flow.talk import (
    COMPLETIONS,
    GENERATE,
    ROUTES,
    Fleet,
    ask,
    body_for,
    fault_all,
    opened,
    right_text,
    start_fleet,
)
from tests.flow.test_door_gone import black_hole, move, silent
from tests.support.engines import BOTH_GENERATIONS, InProcess
from tests.support.proxies import eventually

generations = pytest.mark.parametrize("version", BOTH_GENERATIONS)
streamed_or_not = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
LIMIT_S = 5.0
"""A loaded machine's second."""
SLOW_PREFILL = {"prefill_tokens_per_s": 1}
ONE_TRY = {"attempts": 1}


def told(engine: InProcess) -> list[str]:
    return [one["rid"] for one in engine.engine.state()["aborts"]]


def live(engine: InProcess) -> int:
    return int(engine.engine.state()["live"])


async def both_begun(fleet: Fleet, count: int = 1) -> None:
    for engine in fleet.engines:
        await eventually(lambda engine=engine: live(engine) == count)


def rids(fleet: Fleet) -> list[str]:
    return sorted(rid for line in fleet.proxy.lines for rid in line["rids"])


@generations
@streamed_or_not
async def test_a_client_that_leaves_during_prefill_has_both_legs_aborted(stream: bool, version: str) -> None:
    async with start_fleet(engine_version=version, prefill_config=SLOW_PREFILL) as fleet:
        asked = asyncio.ensure_future(ask(fleet.http, GENERATE, body_for(GENERATE, stream=stream)))
        await both_begun(fleet)
        asked.cancel()
        for engine in fleet.engines:
            await eventually(lambda engine=engine: not live(engine) and told(engine), LIMIT_S)
        await eventually(lambda: fleet.proxy.lines)
        assert [told(engine) for engine in fleet.engines] == [rids(fleet)] * 2


@generations
async def test_200_that_leave_at_once_are_all_aborted_on_both_legs(version: str) -> None:
    async with start_fleet(engine_version=version, prefill_config=SLOW_PREFILL) as fleet:
        async with aiohttp.ClientSession(fleet.proxy.url, connector=aiohttp.TCPConnector(limit=0)) as http:
            asked = [
                asyncio.ensure_future(
                    ask(http, route, body_for(route, f"{n} is my number", stream=route == COMPLETIONS))
                )
                for n in range(100)
                for route in (GENERATE, COMPLETIONS)
            ]
            await both_begun(fleet, 200)
            for one in asked:
                one.cancel()
        await eventually(lambda: len(fleet.proxy.lines) == 200)
        for engine in fleet.engines:
            await eventually(lambda engine=engine: sorted(told(engine)) == rids(fleet), LIMIT_S)
            assert not live(engine)


@generations
@pytest.mark.parametrize("fault", ["status", "hang", "die"])
async def test_a_prefill_that_fails_frees_its_decode_at_once(fault: str, version: str) -> None:
    settings = {"upstream": {"first_token_s": 0.5}, "retries": ONE_TRY}
    async with start_fleet(engine_version=version, settings=settings) as fleet:
        await fleet.prefills[0].fault(fault, **({} if fault == "status" else {"before_head": True}))
        (decode,) = fleet.decodes
        got = await ask(fleet.http, GENERATE, body_for(GENERATE, stream=True))
        assert got.status >= 500
        # By itself decode would wait 300 s for the KV cache. Prefill may fail before decode is asked at all.
        asked = (await decode.state())["total_requests"]
        await eventually(lambda: not live(decode) and told(decode) == rids(fleet)[:asked], LIMIT_S)


@generations
async def test_a_decode_that_hangs_is_told_and_its_prefill_finishes_or_is_told(version: str) -> None:
    settings = {"upstream": {"first_token_s": 0.5, "first_token_after_prefill_s": 0.3}, "retries": ONE_TRY}
    async with start_fleet(engine_version=version, settings=settings) as fleet:
        await fleet.decodes[0].fault("hang", before_head=True)
        assert (await ask(fleet.http, GENERATE, body_for(GENERATE))).status == 504
        await eventually(lambda: told(fleet.decodes[0]) == rids(fleet), LIMIT_S)
        for engine in fleet.engines:
            await eventually(lambda engine=engine: not live(engine), LIMIT_S)


async def test_a_stalled_stream_is_told_to_its_decode() -> None:
    settings = {
        "upstream": {"between_chunks_s": 0.5},
        "retries": {"enabled": False},
    }
    async with start_fleet(settings=settings) as fleet:
        await fleet.decodes[0].fault("hang", after_events=3)
        await ask(fleet.http, GENERATE, body_for(GENERATE, stream=True))
        await eventually(lambda: told(fleet.decodes[0]) == rids(fleet), LIMIT_S)


@generations
async def test_nothing_that_ended_by_itself_is_aborted(version: str) -> None:
    async with start_fleet(1, 2, engine_version=version) as fleet:
        for route in ROUTES:
            for stream in (False, True):
                await right_text(fleet.http, route, body_for(route, stream=stream))
        await fleet.decodes[0].fault("status", status=500, count=1)
        await fleet.decodes[1].fault("status", status=500, count=1)
        await right_text(fleet.http, GENERATE, body_for(GENERATE))
        for decode in fleet.decodes:
            assert told(decode) == []


async def test_the_workers_key_goes_with_an_abort() -> None:
    settings = {"upstream": {"api_key": "sesame"}}
    async with start_fleet(
        api_key="sesame", settings=settings, prefill_config={**SLOW_PREFILL, "api_key": "sesame"}
    ) as fleet:
        asked = asyncio.ensure_future(ask(fleet.http, GENERATE, body_for(GENERATE)))
        await both_begun(fleet)
        asked.cancel()
        for engine in fleet.engines:
            await eventually(lambda engine=engine: told(engine), LIMIT_S)
        await eventually(lambda: fleet.proxy.service.metrics.aborts == {"sent": 2, "failed": 0, "dropped": 0})


async def abort(fleet: Fleet, **body: Any) -> int:
    got = await ask(fleet.http, "/abort_request", body)
    assert got.status == 200
    aborted: int = got.json["aborted"]
    return aborted


@streamed_or_not
async def test_a_client_may_abort_what_still_waits_for_a_worker(stream: bool) -> None:
    settings = {"routing": {"max_in_flight_per_worker": 1}}
    async with start_fleet(settings=settings, decode_ms_per_token=20) as fleet:
        async with opened(fleet.http, GENERATE, body_for(GENERATE, tokens=2000, rid="first")) as running:
            await running.next()
            mine = body_for(GENERATE, stream=stream, rid="mine")
            queued = asyncio.ensure_future(ask(fleet.http, GENERATE, mine))
            await eventually(lambda: fleet.proxy.service.admission.waiting == 1)
            assert await abort(fleet, rid="mine") == 1
            got = await queued
            assert (got.status, got.json["error"]["code"]) == (499, "aborted")
            assert fleet.proxy.lines[0]["outcome"] == "aborted"
            assert (await fleet.decodes[0].state())["total_requests"] == 1
            assert await abort(fleet, rid="first") == 1
            await running.rest()


async def test_a_client_may_abort_what_waits_between_two_attempts() -> None:
    settings = {"retries": {"initial_backoff_s": 1000, "max_backoff_s": 1000}}
    async with start_fleet(settings=settings) as fleet:
        await fault_all(fleet.decodes, "status", status=500)
        asked = asyncio.ensure_future(ask(fleet.http, GENERATE, body_for(GENERATE, rid="mine")))
        await eventually(lambda: fleet.proxy.service.metrics.attempts == 1)
        await eventually(lambda: not fleet.proxy.service.carriage.live)
        assert await abort(fleet, rid="mine") == 1
        async with asyncio.timeout(LIMIT_S):
            assert (await asked).status == 499
        assert fleet.proxy.lines[0]["outcome"] == "aborted"


async def test_all_answers_of_one_request_end_wherever_they_are() -> None:
    settings = {"routing": {"max_in_flight_per_worker": 2}}
    async with start_fleet(settings=settings, prefill_config=SLOW_PREFILL) as fleet:
        body = body_for(GENERATE, rid="mine")
        body["sampling_params"]["n"] = 5
        asked = asyncio.ensure_future(ask(fleet.http, GENERATE, body))
        await both_begun(fleet, 2)
        assert await abort(fleet, rid="mine") == 5
        async with asyncio.timeout(LIMIT_S):
            await asked
        assert fleet.proxy.service.metrics.attempts == 2


async def test_a_client_may_abort_what_has_reached_one_worker_only() -> None:
    async with AsyncExitStack() as stack:
        port = stack.enter_context(black_hole())
        stage = await stack.enter_async_context(start_stage(prefill=silent, upstream={"connect_s": 60}))
        move(stage, port)
        asked = asyncio.ensure_future(ask(stage.proxy.http, GENERATE, body_for(GENERATE, rid="mine")))
        await eventually(lambda: stage.prefill.live)
        got = await ask(stage.proxy.http, "/abort_request", {"rid": "mine"})
        assert got.json == {"aborted": 1}
        async with asyncio.timeout(LIMIT_S):
            assert (await asked).status == 499
        await eventually(lambda: len(stage.prefill.aborts) == 1, LIMIT_S)
