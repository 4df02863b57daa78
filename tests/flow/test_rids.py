"""A client's own request id comes back to it, never reaches a worker, and can be aborted by."""

from __future__ import annotations

from typing import Any

import pytest

from tests.flow.talk import CHAT, COMPLETIONS, GENERATE, PROMPT, ROUTES, ask, body_for, opened, start_fleet
from tests.support.engines import BOTH_GENERATIONS
from tests.support.proxies import eventually

streamed_or_not = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
ODD = 'it\'s "mine" \\ 東京 \n é'
PACED: dict[str, Any] = {"decode_ms_per_token": 20}


@pytest.mark.parametrize("rid", ["plain-1", ODD])
@pytest.mark.parametrize("route", ROUTES)
@streamed_or_not
async def test_a_clients_rid_comes_back_as_id_and_no_worker_sees_it(
    rid: str, route: str, stream: bool
) -> None:
    async with start_fleet() as fleet:
        got = await ask(fleet.http, route, body_for(route, stream=stream, rid=rid))
        bodies = got.events if stream else [got.json]
        assert {one["meta_info"]["id"] if route == GENERATE else one["id"] for one in bodies} == {rid}
        for engine in fleet.engines:
            (seen,) = (await engine.state())["requests"]
            assert len(seen["rid"]) == 32
            assert rid not in seen["rid"]


@streamed_or_not
async def test_a_batch_gets_its_own_rids_back_one_by_one(stream: bool) -> None:
    own = ["first", ODD, "third"]
    body = {**body_for(GENERATE, stream=stream, rid=own), "text": ["a", "b", "c"]}
    async with start_fleet() as fleet:
        got = await ask(fleet.http, GENERATE, body)
        if stream:
            assert {(e["index"], e["meta_info"]["id"]) for e in got.events} == set(enumerate(own))
        else:
            assert [one["meta_info"]["id"] for one in got.json] == own


async def test_one_rid_for_a_batch_is_numbered_as_sglang_numbers_it() -> None:
    async with start_fleet() as fleet:
        got = await ask(fleet.http, GENERATE, {**body_for(GENERATE, rid="r"), "text": ["a", "b"]})
        assert [one["meta_info"]["id"] for one in got.json] == ["r_0", "r_1"]


@pytest.mark.parametrize("version", BOTH_GENERATIONS)
@pytest.mark.parametrize("route", ROUTES)
async def test_a_stream_that_its_client_aborts_ends_as_sglang_ends_it(version: str, route: str) -> None:
    async with (
        start_fleet(engine_version=version, **PACED) as fleet,
        opened(fleet.http, route, body_for(route, tokens=2000, rid=ODD)) as stream,
    ):
        await stream.next()
        await stream.next()
        said = await ask(fleet.http, "/abort_request", {"rid": ODD})
        assert said.json == {"aborted": 1}
        events = await stream.rest()
        if route == GENERATE:
            assert events[-1]["meta_info"]["finish_reason"]["type"] == "abort"
        else:
            assert events[-1]["choices"][0]["finish_reason"] == "abort"
        await eventually(lambda: fleet.proxy.lines)
        assert fleet.proxy.lines[0]["outcome"] == "ok"
        assert fleet.proxy.lines[0]["attempts"] == 1
        assert [one["rid"] for one in (await fleet.decodes[0].state())["aborts"]] == fleet.proxy.lines[0][
            "rids"
        ]


@pytest.mark.parametrize("version", BOTH_GENERATIONS)
@pytest.mark.parametrize("route", ROUTES)
async def test_a_request_aborted_before_its_first_token_is_not_made_again(version: str, route: str) -> None:
    async with start_fleet(2, 2, engine_version=version, prefill_config={"prefill_tokens_per_s": 1}) as fleet:
        import asyncio

        waiting = asyncio.ensure_future(ask(fleet.http, route, body_for(route, rid="mine")))
        await eventually(lambda: fleet.proxy.service.carriage.live)
        await eventually(lambda: any(d.engine.state()["live"] for d in fleet.decodes))
        assert (await ask(fleet.http, "/abort_request", {"rid": "mine"})).json == {"aborted": 1}
        await waiting
        assert fleet.proxy.lines[0]["attempts"] == 1


async def test_abort_all_ends_everything() -> None:
    async with start_fleet(**PACED) as fleet:
        long = body_for(GENERATE, tokens=2000)
        async with (
            opened(fleet.http, GENERATE, long) as one,
            opened(fleet.http, CHAT, body_for(CHAT, tokens=2000)) as two,
            opened(fleet.http, COMPLETIONS, body_for(COMPLETIONS, tokens=2000, rid="x")) as three,
        ):
            for stream in (one, two, three):
                await stream.next()
            assert (await ask(fleet.http, "/abort_request", {"abort_all": True})).json == {"aborted": 3}
            for stream in (one, two, three):
                await stream.rest()


async def test_abort_all_ends_those_that_wait_for_a_worker_too() -> None:
    async with start_fleet(settings={"routing": {"max_in_flight_per_worker": 1}}, **PACED) as fleet:
        import asyncio

        async with opened(fleet.http, GENERATE, body_for(GENERATE, tokens=2000)) as running:
            await running.next()
            queued = asyncio.ensure_future(ask(fleet.http, GENERATE, body_for(GENERATE)))
            await eventually(lambda: fleet.proxy.service.admission.waiting == 1)
            assert (await ask(fleet.http, "/abort_request", {"abort_all": True})).json == {"aborted": 2}
            await running.rest()
            assert (await queued).status == 499
            assert (await fleet.decodes[0].state())["total_requests"] == 1


async def test_two_live_requests_of_one_rid_are_both_aborted() -> None:
    body = body_for(GENERATE, PROMPT, 2000, rid="twin")
    async with (
        start_fleet(**PACED) as fleet,
        opened(fleet.http, GENERATE, body) as one,
        opened(fleet.http, GENERATE, body) as two,
    ):
        await one.next()
        await two.next()
        assert (await ask(fleet.http, "/abort_request", {"rid": "twin"})).json == {"aborted": 2}
        for stream in (one, two):
            assert (await stream.rest())[-1]["meta_info"]["id"] == "twin"


async def test_an_unknown_rid_aborts_nothing() -> None:
    async with (
        start_fleet(**PACED) as fleet,
        opened(fleet.http, GENERATE, body_for(GENERATE, tokens=10, rid="mine")) as stream,
    ):
        await stream.next()
        assert (await ask(fleet.http, "/abort_request", {"rid": "min"})).json == {"aborted": 0}
        assert (await stream.rest())[-1]["meta_info"]["finish_reason"]["type"] == "length"
