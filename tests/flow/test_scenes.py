"""Scenes from production: a refusal by prefill, idle connections, a black-holed path, a restarted worker."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest

from proxy.roster import Change
from tests.flow.relay import relayed
from tests.flow.talk import CHAT, GENERATE, PROMPT, ROUTES, ask, body_for, opened, right_text, start_fleet
from tests.support.engines import BOTH_GENERATIONS, expected, start_engine
from tests.support.proxies import Proxy, eventually, start_proxy

generations = pytest.mark.parametrize("version", BOTH_GENERATIONS)
QUICK = {"initial_backoff_s": 0.001, "max_backoff_s": 0.005}


def edges(proxy: Proxy, since: int = 0) -> Counter[tuple[str, str]]:
    """Which pairs have served, by the log."""
    return Counter((line["prefill"], line["decode"]) for line in proxy.lines[since:])


@generations
async def test_a_refusal_by_prefill_is_told_within_100_ms_while_decode_would_wait_for_minutes(
    version: str,
) -> None:
    async with start_fleet(engine_version=version) as fleet:
        await fleet.prefills[0].fault("status", status=400, message="too long, says prefill")
        took_s = []
        for number in range(20):
            began = time.monotonic()
            got = await ask(fleet.http, GENERATE, body_for(GENERATE, stream=number % 2 == 0))
            took_s.append(time.monotonic() - began)
            assert got.status == 400
            assert "too long, says prefill" in got.raw.decode()
        # The quickest of twenty: a busy machine slows most of them, a wait would slow all.
        assert min(took_s) < 0.1
        await eventually(lambda: not fleet.decodes[0].engine.state()["live"], 1.0)
        assert {line["attempts"] for line in fleet.proxy.lines} == {1}


async def test_after_six_idle_seconds_a_burst_meets_no_stale_connection() -> None:
    """SGLang closes its idle connections after 5 s, and so does the simulated engine."""
    async with (
        start_fleet(2, 2, engine_version="0.5.2") as old,
        start_fleet(2, 2, engine_version="0.5.23") as new,
    ):

        async def burst() -> None:
            async with asyncio.TaskGroup() as group:
                for number in range(96):
                    fleet, route = (old, new)[number % 2], ROUTES[number % len(ROUTES)]
                    body = body_for(route, f"{PROMPT} {number}", stream=number % 4 < 2)
                    group.create_task(right_text(fleet.http, route, body))

        await burst()
        await asyncio.sleep(6)
        await burst()
        for fleet in (old, new):
            assert [line["attempts"] for line in fleet.proxy.lines] == [1] * 96
            assert {line["outcome"] for line in fleet.proxy.lines} == {"ok"}


@generations
async def test_of_one_black_holed_edge_only_that_edge_is_avoided(version: str) -> None:
    settings: dict[str, Any] = {
        "upstream": {"first_token_s": 4},
        "retries": QUICK,
        "routing": {"policy": "random", "slow_start_s": 0},
        "breaker": {"edge_open_s": 60, "edge_open_max_s": 60},
    }
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        prefills = [await enter(start_engine("prefill", engine_version=version)) for _ in range(2)]
        decodes = [await enter(start_engine("decode", engine_version=version)) for _ in range(2)]
        relay = await enter(relayed(prefills[0]))
        proxy = await enter(start_proxy(prefills, decodes, **settings))
        proxy.service.pool.apply([Change(relay.worker.worker_id, relay.worker)])
        for number in range(200):
            await right_text(proxy.http, GENERATE, body_for(GENERATE, f"warm {number}", 2))
            if len(edges(proxy)) == 4:
                break
        relay.swallowed = decodes[0].engine.instance

        async def some(count: int) -> None:
            for number in range(count):
                route = (GENERATE, CHAT)[number % 2]
                await right_text(proxy.http, route, body_for(route, f"{number}", 2, stream=True))

        # Which pairs they go to is chance, and one failure proves nothing: as many as it takes.
        for _ in range(8):
            async with asyncio.TaskGroup() as group:
                for _ in range(32):
                    group.create_task(some(1))
            if proxy.service.pool.open_edges:
                break
        before = len(proxy.lines)
        await some(30)
        used = edges(proxy, before)
        holed = (prefills[0].worker.worker_id, decodes[0].worker.worker_id)
        assert holed not in used
        assert len(used) == 3, "the other edges of both go on"
        assert [line["attempts"] for line in proxy.lines[before:]] == [1] * 30
        page = await (await proxy.http.get("/metrics")).text()
        assert "pd_edges_open 1.0" in page
        views = (await (await proxy.http.get("/workers")).json())["workers"]
        benched = {(view["id"], *view["benched_with"]) for view in views if view["benched_with"]}
        assert benched == {holed, holed[::-1]}
        assert "pd_workers_benched 0.0" in page
        assert {line["outcome"] for line in proxy.lines} == {"ok"}


@generations
@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_whose_handshake_is_lost_is_tried_again_once_newer_ones_have_been_answered(
    version: str, stream: bool
) -> None:
    settings: dict[str, Any] = {
        "upstream": {"stuck_s": 1},
        "retries": QUICK,
        "routing": {"policy": "round_robin", "slow_start_s": 0},
    }
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        prefill = await enter(start_engine("prefill", engine_version=version))
        decodes = [await enter(start_engine("decode", engine_version=version)) for _ in range(2)]
        relay = await enter(relayed(prefill))
        proxy = await enter(start_proxy([prefill], decodes, **settings))
        proxy.service.pool.apply([Change(relay.worker.worker_id, relay.worker)])
        for number in range(8):
            await right_text(proxy.http, GENERATE, body_for(GENERATE, f"warm {number}", 2))
        relay.swallowed = decodes[0].engine.instance
        body = body_for(GENERATE, tokens=2, stream=stream)
        lost = [asyncio.create_task(right_text(proxy.http, GENERATE, body)) for _ in range(2)]
        await asyncio.sleep(0.5)
        relay.swallowed = None
        done, waiting = await asyncio.wait(lost, timeout=2)
        assert len(done) == len(waiting) == 1, "while nobody else is answered it is no slower than others"
        for number in range(24):
            await right_text(proxy.http, GENERATE, body_for(GENERATE, f"newer {number}", 2))
            await asyncio.sleep(0.1)
        await asyncio.wait_for(waiting.pop(), 5)
        found = [line for line in proxy.lines if line["attempts"] > 1]
        assert len(found) == 1
        assert "while its workers answer newer requests" in found[0]["error"]
        assert {line["outcome"] for line in proxy.lines} == {"ok"}


@generations
async def test_what_waits_for_a_prefill_whose_transfers_all_stand_still_goes_elsewhere(version: str) -> None:
    settings: dict[str, Any] = {
        "upstream": {"stuck_s": 1.5},
        "retries": QUICK,
        "routing": {"policy": "least_loaded", "slow_start_s": 0},
    }
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        prefills = [await enter(start_engine("prefill", engine_version=version)) for _ in range(2)]
        decodes = [await enter(start_engine("decode", engine_version=version)) for _ in range(2)]
        relay = await enter(relayed(prefills[0]))
        proxy = await enter(start_proxy(prefills, decodes, **settings))
        proxy.service.pool.apply([Change(relay.worker.worker_id, relay.worker)])
        for number in range(8):
            await right_text(proxy.http, GENERATE, body_for(GENERATE, f"warm {number}", 2))
        relay.swallowed = ""

        def burst() -> list[asyncio.Task[None]]:
            body = body_for(GENERATE, tokens=2, stream=True)
            return [asyncio.create_task(right_text(proxy.http, GENERATE, body)) for _ in range(8)]

        asked = burst()
        await asyncio.sleep(0.6)
        asked += burst()
        await asyncio.wait_for(asyncio.gather(*asked), 10)
        again = [line for line in proxy.lines if line["attempts"] > 1]
        assert len(again) >= 4
        assert {line["prefill"] for line in again} == {prefills[1].worker.worker_id}
        assert {line["outcome"] for line in proxy.lines} == {"ok"}


@generations
@pytest.mark.parametrize("role", ["prefill", "decode"])
async def test_a_worker_restarted_at_its_address_is_a_new_one(role: str, version: str) -> None:
    """Nothing of the old process is held against it, or used for it: connections, benches, dead sessions."""
    settings: dict[str, Any] = {
        "retries": QUICK,
        "breaker": {"open_s": 60, "edge_open_s": 60, "edge_open_max_s": 60},
        "routing": {"policy": "random", "slow_start_s": 0},
    }
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        peers_role = "decode" if role == "prefill" else "prefill"
        peers = [await enter(start_engine(peers_role, engine_version=version)) for _ in range(2)]
        old = await enter(start_engine(role, engine_version=version))
        sides = ([old], peers) if role == "prefill" else (peers, [old])
        proxy = await enter(start_proxy(*sides, **settings))

        async def some(what: str) -> Counter[tuple[str, str]]:
            before = len(proxy.lines)
            for number in range(16):
                body = body_for(GENERATE, f"{what} {number}", 4, stream=number % 2 == 0)
                await right_text(proxy.http, GENERATE, body)
            return edges(proxy, before)

        # Mooncake gives one session up, and that edge is benched for a minute.
        dead = "Decode instance could be dead"
        await sides[0][0].fault("kv_transfer", session_dead=True, message=dead, count=1)
        await some("before")
        assert len(await some("with one edge benched")) == 1
        await old.kill()
        assert (await ask(proxy.http, GENERATE, body_for(GENERATE))).status in (502, 503)
        ports = {"port": old.port, "bootstrap_port": old.bootstrap_port}
        new = await enter(start_engine(role, engine_version=version, **ports))
        assert new.worker.worker_id == old.worker.worker_id
        assert new.worker.instance != old.worker.instance
        proxy.service.pool.apply([Change(new.worker.worker_id, new.worker)])
        before = len(proxy.lines)
        assert len(await some("after")) == 2
        assert [line["attempts"] for line in proxy.lines[before:]] == [1] * 16


@generations
async def test_a_stream_outlives_the_restart_of_its_prefill(version: str) -> None:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        old = await enter(start_engine("prefill", engine_version=version))
        decode = await enter(start_engine("decode", engine_version=version, decode_ms_per_token=20))
        proxy = await enter(start_proxy([old], [decode]))
        async with opened(proxy.http, GENERATE, body_for(GENERATE, tokens=40)) as stream:
            await stream.next()
            await old.kill()
            ports = {"port": old.port, "bootstrap_port": old.bootstrap_port}
            new = await enter(start_engine("prefill", engine_version=version, **ports))
            proxy.service.pool.apply([Change(new.worker.worker_id, new.worker)])
            assert (await stream.rest())[-1]["text"] == expected(PROMPT, 40)
        await right_text(proxy.http, GENERATE, body_for(GENERATE))
        assert [line["attempts"] for line in proxy.lines] == [1, 1]
