"""A client's own time limits, in headers of its request."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.flow.scripted import post, read_frame, start_stage
from tests.flow.talk import GENERATE, ask, body_for, fault_all, opened, start_fleet

LIMIT_S = 8.0
"""Far below the settings' own limits of minutes."""


async def test_the_whole_of_an_answer_that_is_not_streamed_has_the_clients_limit() -> None:
    async with start_fleet() as fleet, asyncio.timeout(LIMIT_S):
        await fault_all(fleet.decodes, "hang")
        got = await ask(fleet.http, GENERATE, body_for(GENERATE), X_PD_Timeout="0.3")
        assert (got.status, got.json["error"]["code"]) == (504, "upstream_timeout")
        assert fleet.proxy.lines[0]["outcome"] == "deadline"
        assert fleet.proxy.lines[0]["attempts"] == 1


async def test_the_limit_is_one_for_all_attempts() -> None:
    settings = {"retries": {"attempts": 1000, "initial_backoff_s": 0.2, "max_backoff_s": 0.2}}
    async with start_fleet(1, 2, settings=settings) as fleet:
        await fault_all(fleet.decodes, "status", status=500)
        began = time.monotonic()
        got = await ask(fleet.http, GENERATE, body_for(GENERATE), X_PD_Timeout="1")
        # The failure as it was, before the deadline: no attempt begins, and none is waited for, behind it.
        assert (got.status, time.monotonic() - began < LIMIT_S) == (500, True)
        assert 1 < int(got.headers["X-PD-Attempts"]) < 100


async def test_a_queued_request_has_the_clients_limit() -> None:
    settings = {"routing": {"max_in_flight_per_worker": 1}}
    async with start_fleet(settings=settings, decode_ms_per_token=20) as fleet:
        async with opened(fleet.http, GENERATE, body_for(GENERATE, tokens=2000, rid="r")) as stream:
            await stream.next()
            async with asyncio.timeout(LIMIT_S):
                got = await ask(fleet.http, GENERATE, body_for(GENERATE), X_PD_Timeout="0.2")
            assert got.status == 504
            assert fleet.proxy.lines[0]["outcome"] == "deadline"
            await ask(fleet.http, "/abort_request", {"rid": "r"})
            await stream.rest()


async def test_a_first_token_has_the_clients_limit() -> None:
    async with start_fleet(settings={"retries": {"attempts": 1}}) as fleet, asyncio.timeout(LIMIT_S):
        await fault_all(fleet.decodes, "hang")
        body = body_for(GENERATE, stream=True)
        got = await ask(fleet.http, GENERATE, body, X_PD_First_Token_Timeout="0.3")
        assert got.status == 504
        assert fleet.proxy.lines[0]["outcome"] == "first_token_timeout"


async def test_a_silence_within_a_stream_has_the_clients_limit() -> None:
    settings = {"retries": {"attempts": 1, "continuation": "off"}}
    async with start_fleet(settings=settings) as fleet, asyncio.timeout(LIMIT_S):
        await fault_all(fleet.decodes, "hang", after_events=3)
        got = await ask(fleet.http, GENERATE, body_for(GENERATE, stream=True), X_PD_Stall_Timeout="0.3")
        assert got.events[-1]["error"]["code"] == "stall"


async def test_a_stream_that_runs_has_no_limit_as_a_whole() -> None:
    async with start_fleet(decode_ms_per_token=20) as fleet:
        body = body_for(GENERATE, tokens=30, stream=True)
        got = await ask(fleet.http, GENERATE, body, X_PD_Timeout="0.2")
        assert got.events[-1]["meta_info"]["finish_reason"]["type"] == "length"


async def test_one_request_limits_nobody_else() -> None:
    async with start_fleet(prefill_config={"prefill_tokens_per_s": 60}) as fleet:
        impatient = await ask(fleet.http, GENERATE, body_for(GENERATE), X_PD_Timeout="0.1")
        patient = await ask(fleet.http, GENERATE, body_for(GENERATE))
        assert (impatient.status, patient.status) == (504, 200)


async def test_no_limit_is_longer_than_the_setting_allows() -> None:
    async with start_fleet(settings={"upstream": {"longest_wait_s": 0.3}}) as fleet, asyncio.timeout(LIMIT_S):
        await fault_all(fleet.decodes, "hang")
        got = await ask(fleet.http, GENERATE, body_for(GENERATE), X_PD_Timeout="1000")
        assert got.status == 504


@pytest.mark.parametrize("value", ["", "soon", "-1", "0", "0.0", "inf", "nan", "1e3", "1_0", "+1", "0x1"])
@pytest.mark.parametrize("name", ["X-PD-Timeout", "X-PD-First-Token-Timeout", "X-PD-Stall-Timeout"])
async def test_a_limit_that_is_no_number_of_seconds_is_refused_by_name(name: str, value: str) -> None:
    async with start_stage() as stage:
        got = await stage.proxy.says(post(b'{"text":"a"}', f"{name}: {value}".encode()))
        assert got.startswith(b"HTTP/1.1 400 ")
        assert name.lower().encode() in got
        assert stage.decode.visits == []


async def test_workers_do_not_see_these_headers() -> None:
    async with start_stage() as stage:
        reader, writer = await stage.proxy.connect()
        lines = (b"X-PD-Timeout: 5", b"X-PD-First-Token-Timeout: 5", b"x-pd-stall-timeout: 5", b"X-Mine: 1")
        writer.write(post(b'{"text":"a"}', *lines))
        assert (await read_frame(reader)).status == 200
        for worker in (stage.prefill, stage.decode):
            (visit,) = worker.visits
            assert b"x-pd-" not in visit.head.lower()
            assert b"X-Mine: 1" in visit.head
        writer.close()
