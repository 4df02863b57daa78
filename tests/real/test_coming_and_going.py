"""Clients that leave, and workers that are drained and come back."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.real.asking import (
    GREEDY,
    PROMPTS,
    ask,
    body_for,
    busy,
    events,
    idle_within,
    plain_text,
    streamed_text,
    told_text,
    until_ready,
)
from tests.real.fleet import Fleet
from tests.support.workers import in_registry

NOTICED_S = 16.0
"""SGLang's decodes notice that a prefill is gone by two heartbeats that fail, 5 s apart; one that is back
before, as one that loads within seconds may be, is asked at its old process's ports, in vain."""

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


async def test_a_client_that_leaves_frees_the_engines_within_three_seconds(
    fleet: Fleet, http: aiohttp.ClientSession
) -> None:
    body = {"text": PROMPTS[0], "sampling_params": GREEDY | {"max_new_tokens": 1500}, "stream": True}
    async with http.post(fleet.proxy + "/generate", json=body) as answer:
        await answer.content.readline()
        assert await busy(http, *fleet.decodes) >= 1
    await idle_within(http, 3, *fleet.prefills, *fleet.decodes)


@pytest.mark.parametrize("role", ["decode", "prefill"])
async def test_a_worker_told_to_leave_under_load_costs_no_request_and_comes_back_at_the_same_address(
    role: str, fleet: Fleet, http: aiohttp.ClientSession
) -> None:
    wanted = await plain_text(fleet, http, PROMPTS[0])
    workers = fleet.decodes if role == "decode" else fleet.prefills
    leaving = workers.pop()
    over = asyncio.Event()
    served = 0

    async def client() -> None:
        nonlocal served
        while not over.is_set():
            found = await events(http, fleet.proxy, "/generate", body_for("/generate", PROMPTS[0]))
            assert streamed_text("/generate", found) == wanted
            served += 1

    async def more() -> None:
        before = served
        while served < before + 12:
            await asyncio.sleep(0.1)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(6):
            tasks.create_task(client())
        await more()
        (before,) = [worker for worker in in_registry(fleet.etcd) if worker.url == leaving.url]
        assert await asyncio.to_thread(leaving.terminate) == 0
        noticed = asyncio.create_task(asyncio.sleep(NOTICED_S))
        await more()
        over.set()
    assert "drain: idle" in leaving.said()
    assert leaving.url not in [worker.url for worker in in_registry(fleet.etcd)]
    await noticed
    fresh = fleet.worker(role, like=leaving)
    await asyncio.to_thread(fresh.wait_ready)
    workers.append(fresh)
    (after,) = [worker for worker in in_registry(fleet.etcd) if worker.url == fresh.url]
    assert after.worker_id == before.worker_id
    assert after.instance != before.instance
    prefill, decode = (fleet.prefills[-1], fleet.decodes[-1])
    with fleet.another_proxy([(prefill.url, prefill.bootstrap_port)], [decode]) as proxy:
        await until_ready(proxy, http, 2)
        body = body_for("/generate", PROMPTS[0])
        assert told_text("/generate", await ask(http, proxy, "/generate", body)) == wanted
