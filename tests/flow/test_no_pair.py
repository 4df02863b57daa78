"""Without a pair the client learns at once who is missing; who leaves, leaves no request behind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.roster import Change, State
from tests.flow.talk import GENERATE, ROUTES, ask, body_for, opened, right_text, start_fleet
from tests.support.engines import start_engine
from tests.support.proxies import start_proxy


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("prefills", "decodes", "told"),
    [(0, 0, "no prefill and no decode worker"), (1, 0, "no decode worker"), (0, 1, "no prefill worker")],
)
async def test_the_missing_role_is_named(route: str, prefills: int, decodes: int, told: str) -> None:
    async with start_fleet(prefills, decodes) as fleet:
        got = await ask(fleet.http, route, body_for(route))
        assert got.status == 503
        assert told in got.json["error"]["message"]
        assert got.json["error"]["code"] == "no_pair_available"
        assert int(got.headers["Retry-After"]) >= 1
        assert fleet.proxy.lines[0]["outcome"] == "no_pair"


async def test_workers_of_different_versions_are_not_paired() -> None:
    async with (
        start_engine("prefill", engine_version="0.5.22") as p,
        start_engine("decode", engine_version="0.5.23") as d,
    ):
        async with start_proxy([p], [d]) as proxy:
            got = await ask(proxy.http, GENERATE, body_for(GENERATE))
            assert got.status == 503
            assert "versions" in got.json["error"]["message"]
        async with start_proxy([p], [d], routing={"compatible_versions": ["0.5.22=0.5.23"]}) as proxy:
            await right_text(proxy.http, GENERATE, body_for(GENERATE))


async def test_each_version_finds_its_own_kind() -> None:
    async with (
        start_engine("prefill", engine_version="0.5.2") as old_p,
        start_engine("decode", engine_version="0.5.2") as old_d,
        start_engine("prefill", engine_version="0.5.23") as new_p,
        start_engine("decode", engine_version="0.5.23") as new_d,
        start_proxy(
            [old_p, new_p], [old_d, new_d], routing={"policy": "round_robin", "slow_start_s": 0}
        ) as proxy,
    ):
        for _ in range(8):
            await right_text(proxy.http, GENERATE, body_for(GENERATE, stream=True))
        for engine in (old_p, old_d, new_p, new_d):
            assert (await engine.state())["total_requests"] == 4


@pytest.mark.parametrize("role", ["prefill", "decode"])
async def test_a_draining_worker_gets_no_new_request_and_its_running_ones_finish(role: str) -> None:
    async with start_fleet(2, 2, decode_ms_per_token=5) as fleet:
        pool = fleet.proxy.service.pool
        async with opened(fleet.http, GENERATE, body_for(GENERATE, tokens=60)) as stream:
            await stream.next()
            engines = fleet.prefills if role == "prefill" else fleet.decodes
            (leaving,) = [e for e in engines if (await e.state())["total_requests"]]
            pool.apply([Change(leaving.worker.worker_id, replace(leaving.worker, state=State.DRAINING))])
            for _ in range(4):
                await right_text(fleet.http, GENERATE, body_for(GENERATE))
            assert (await leaving.state())["total_requests"] == 1
            assert (await stream.rest())[-1]["meta_info"]["completion_tokens"] == 60


async def test_when_all_drain_the_client_is_told_so() -> None:
    async with start_fleet() as fleet:
        worker = fleet.decodes[0].worker
        change = Change(worker.worker_id, replace(worker, state=State.DRAINING))
        fleet.proxy.service.pool.apply([change])
        got = await ask(fleet.http, GENERATE, body_for(GENERATE))
        assert got.status == 503
        assert "draining" in got.json["error"]["message"]


async def test_a_worker_that_is_taken_away_keeps_its_running_stream() -> None:
    async with start_fleet(decode_ms_per_token=5) as fleet:
        pool = fleet.proxy.service.pool
        async with opened(fleet.http, GENERATE, body_for(GENERATE, tokens=60)) as stream:
            await stream.next()
            pool.apply([Change(engine.worker.worker_id, None) for engine in fleet.engines])
            assert (await ask(fleet.http, GENERATE, body_for(GENERATE))).status == 503
            assert (await stream.rest())[-1]["meta_info"]["completion_tokens"] == 60
