"""No worker gets more than its cap; who must wait waits in order, bounded, and may leave."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.flow.talk import GENERATE, Answer, Fleet, Opened, ask, body_for, opened, right_text, start_fleet
from tests.support.proxies import eventually


def capped(cap: int | None = 1, **more: Any) -> dict[str, Any]:
    return {"settings": {"routing": {"max_in_flight_per_worker": cap, **more}}, "decode_ms_per_token": 5}


def waiting(fleet: Fleet) -> int:
    return fleet.proxy.service.admission.waiting


@pytest.mark.parametrize("cap", [1, 3])
@pytest.mark.parametrize("policy", ["round_robin", "random", "least_loaded", "power_of_two"])
async def test_no_worker_ever_has_more_than_its_cap(cap: int, policy: str) -> None:
    async with start_fleet(2, 2, **capped(cap, policy=policy)) as fleet:
        async with asyncio.TaskGroup() as group:
            for number in range(30):
                body = body_for(GENERATE, f"number {number}", 4, stream=number % 2 == 0)
                group.create_task(right_text(fleet.http, GENERATE, body))
        for engine in fleet.engines:
            state = await engine.state()
            assert state["peak_live"] <= cap
            assert state["total_requests"] > 0
        for decode in fleet.decodes:
            assert (await decode.state())["peak_live"] == cap


async def test_a_workers_own_limit_is_its_cap_where_none_is_set() -> None:
    async with start_fleet(max_running_requests=2, decode_ms_per_token=5) as fleet:
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(right_text(fleet.http, GENERATE, body_for(GENERATE, tokens=4)))
        for engine in fleet.engines:
            assert (await engine.state())["peak_live"] <= 2


async def test_who_comes_first_is_served_first() -> None:
    async with start_fleet(**capped(1)) as fleet:
        order: list[int] = []

        async def one(number: int) -> None:
            await ask(fleet.http, GENERATE, body_for(GENERATE, tokens=2))
            order.append(number)

        async with asyncio.TaskGroup() as group:
            async with opened(fleet.http, GENERATE, body_for(GENERATE, tokens=30)) as first:
                await first.next()
                for number in range(8):
                    group.create_task(one(number))
                    await eventually(lambda number=number: waiting(fleet) == number + 1)
                await first.rest()
        assert order == list(range(8))
        assert all(line["queue_ms"] > 0 for line in fleet.proxy.lines[1:])


async def test_beyond_the_queue_there_is_a_503_with_retry_after() -> None:
    async with start_fleet(**capped(1, queue_size=1)) as fleet:
        async with opened(fleet.http, GENERATE, body_for(GENERATE, tokens=60)) as running:
            await running.next()
            queued = asyncio.ensure_future(ask(fleet.http, GENERATE, body_for(GENERATE)))
            await eventually(lambda: waiting(fleet) == 1)
            refused = await ask(fleet.http, GENERATE, body_for(GENERATE))
            await running.rest()
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert "routing.queue_size" in refused.json["error"]["message"]
        assert (await queued).status == 200


async def test_a_queue_of_none_refuses_at_once() -> None:
    async with start_fleet(**capped(1, queue_size=0)) as fleet:
        async with opened(fleet.http, GENERATE, body_for(GENERATE, tokens=40)) as running:
            await running.next()
            assert (await ask(fleet.http, GENERATE, body_for(GENERATE))).status == 503
            await running.rest()
        await right_text(fleet.http, GENERATE, body_for(GENERATE))


async def test_waiting_has_its_limit() -> None:
    async with start_fleet(**capped(1, queue_s=0.1)) as fleet:
        async with opened(fleet.http, GENERATE, body_for(GENERATE, tokens=120)) as running:
            await running.next()
            refused = await ask(fleet.http, GENERATE, body_for(GENERATE))
            assert (refused.status, "Retry-After" in refused.headers) == (503, True)
            assert fleet.proxy.lines[0]["outcome"] == "overloaded"
            assert waiting(fleet) == 0
            await running.rest()


async def test_a_queued_client_that_leaves_is_forgotten() -> None:
    async with start_fleet(**capped(1)) as fleet:
        async with opened(fleet.http, GENERATE, body_for(GENERATE, tokens=60)) as running:
            await running.next()
            leaving = asyncio.ensure_future(ask(fleet.http, GENERATE, body_for(GENERATE)))
            await eventually(lambda: waiting(fleet) == 1)
            staying = asyncio.ensure_future(ask(fleet.http, GENERATE, body_for(GENERATE)))
            await eventually(lambda: waiting(fleet) == 2)
            leaving.cancel()
            await eventually(lambda: waiting(fleet) == 1)
            await running.rest()
            assert (await staying).status == 200
        assert (await fleet.decodes[0].state())["total_requests"] == 2
        assert fleet.proxy.lines[0]["outcome"] == "client_gone"


async def test_a_client_that_leaves_a_stream_makes_room_for_the_next() -> None:
    async with start_fleet(**capped(1)) as fleet:
        running: Opened
        async with opened(fleet.http, GENERATE, body_for(GENERATE, tokens=5000)) as running:
            await running.next()
            queued = asyncio.ensure_future(ask(fleet.http, GENERATE, body_for(GENERATE)))
            await eventually(lambda: waiting(fleet) == 1)
            running.response.close()
        answer: Answer = await asyncio.wait_for(queued, 5)
        assert answer.status == 200


async def test_a_model_at_its_cap_holds_up_no_other() -> None:
    from tests.flow.test_models import two_models

    async with two_models(routing={"max_in_flight_per_worker": 1}) as (proxy, decodes):
        await decodes["alpha"].fault("hang", count=1)
        stuck = asyncio.ensure_future(ask(proxy.http, GENERATE, body_for(GENERATE), X_PD_Model="alpha"))
        await eventually(lambda: proxy.service.carriage.live)
        behind = asyncio.ensure_future(ask(proxy.http, GENERATE, body_for(GENERATE), X_PD_Model="alpha"))
        await eventually(lambda: proxy.service.admission.waiting == 1)
        assert (await ask(proxy.http, GENERATE, body_for(GENERATE), X_PD_Model="beta")).status == 200
        stuck.cancel()
        assert (await behind).status == 200
