"""What breaks between real prefills and decodes, and what clients see of it: nothing, or a clear word."""

from __future__ import annotations

import asyncio
import time

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
    metric,
    plain_text,
    streamed_text,
    told_text,
    until_listening,
    until_ready,
)
from tests.real.fleet import Fleet, RealWorker
from tests.support.etcd import free_ports

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


async def until_busy(http: aiohttp.ClientSession, worker: RealWorker) -> None:
    """Until it knows of a request."""
    deadline_s = time.monotonic() + 60
    while not await busy(http, worker):
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.1)


async def test_a_prefill_that_dies_while_decode_waits_costs_no_request(
    fleet: Fleet, http: aiohttp.ClientSession
) -> None:
    wanted = [await plain_text(fleet, http, prompt) for prompt in PROMPTS]
    victim = fleet.prefills[0]
    lives = victim.lives
    over = 0

    async def one(number: int) -> None:
        nonlocal over
        told = await events(http, fleet.proxy, "/generate", body_for("/generate", PROMPTS[number % 4]))
        assert streamed_text("/generate", told) == wanted[number % 4]
        over += 1

    victim.freeze()
    try:
        async with asyncio.TaskGroup() as tasks:
            for number in range(8):
                tasks.create_task(one(number))
            # The other prefill's are over soon; what is left waits for the one that stands still.
            before = -1
            while before != over or not over:
                before = over
                await asyncio.sleep(3)
            assert over < 8
            assert await busy(http, *fleet.decodes)
            victim.kill_engine()
    finally:
        victim.thaw()
    await asyncio.to_thread(victim.wait_ready, lives + 1)
    # Seen once: a decode that knew the old process waited for the new one until SGLang's own limit.
    limit = ("--upstream-first-token-s", "30")
    with fleet.another_proxy([(victim.url, victim.bootstrap_port)], fleet.decodes, *limit) as proxy:
        await until_ready(proxy, http, 3)
        for number, prompt in enumerate(PROMPTS):
            body = body_for("/generate", prompt)
            assert told_text("/generate", await ask(http, proxy, "/generate", body)) == wanted[number]


async def test_what_waits_for_a_prefill_that_stands_still_goes_elsewhere(
    fleet: Fleet, http: aiohttp.ClientSession
) -> None:
    wanted = [await plain_text(fleet, http, prompt) for prompt in PROMPTS]
    prefills = [(prefill.url, prefill.bootstrap_port) for prefill in fleet.prefills]
    victim = fleet.prefills[0]

    async def one(proxy: str, number: int) -> None:
        told = await events(http, proxy, "/generate", body_for("/generate", PROMPTS[number % 4]))
        assert streamed_text("/generate", told) == wanted[number % 4]

    with fleet.another_proxy(prefills, fleet.decodes, "--upstream-stuck-s", "5") as proxy:
        await until_ready(proxy, http, 4)
        await one(proxy, 0)
        victim.freeze()
        try:
            async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
                for number in range(8):
                    tasks.create_task(one(proxy, number))
                    await asyncio.sleep(0.3)
            retries = await metric(http, proxy, "pd_retries_total")
        finally:
            victim.thaw()
    assert retries['{reason="first_token_timeout"}'] >= 1
    await idle_within(http, 30, *fleet.prefills, *fleet.decodes)


async def test_a_client_that_leaves_while_decode_waits_for_a_prefill_frees_the_decode(
    fleet: Fleet, http: aiohttp.ClientSession
) -> None:
    prefill, decode = fleet.prefills[0], fleet.decodes[0]
    with fleet.another_proxy([(prefill.url, prefill.bootstrap_port)], [decode]) as proxy:
        await until_ready(proxy, http, 2)
        prefill.freeze()
        try:
            body = {"text": PROMPTS[0], "sampling_params": GREEDY}
            async with asyncio.TaskGroup() as tasks:
                client = tasks.create_task(events(http, proxy, "/generate", body))
                await until_busy(http, decode)
                client.cancel()
            await idle_within(http, 3, decode)
        finally:
            prefill.thaw()
        await idle_within(http, 10, prefill)


async def test_a_wrong_bootstrap_port_is_masked_where_there_is_another_prefill(
    fleet: Fleet, http: aiohttp.ClientSession
) -> None:
    (wrong,) = free_ports(1)
    bad, good = fleet.prefills
    prefills = [(bad.url, wrong), (good.url, good.bootstrap_port)]
    wanted = [await plain_text(fleet, http, prompt) for prompt in PROMPTS]
    with fleet.another_proxy(prefills, fleet.decodes) as proxy:
        await until_ready(proxy, http, 3)
        for number, prompt in enumerate(PROMPTS):
            told = await events(http, proxy, "/generate", body_for("/generate", prompt))
            assert streamed_text("/generate", told) == wanted[number]
        assert sum((await metric(http, proxy, "pd_retries_total")).values()) >= 1
    await idle_within(http, 10, *fleet.prefills, *fleet.decodes)


@pytest.mark.parametrize("path", ["/generate", "/v1/chat/completions"])
async def test_a_wrong_bootstrap_port_alone_is_told_in_clear_words(
    path: str, fleet: Fleet, http: aiohttp.ClientSession
) -> None:
    (wrong,) = free_ports(1)
    prefill = fleet.prefills[0]
    with fleet.another_proxy([(prefill.url, wrong)], fleet.decodes[:1]) as proxy:
        await until_listening(proxy, http)
        async with http.post(proxy + path, json=body_for(path, PROMPTS[0])) as answer:
            told = await answer.json()
            assert answer.status in (502, 503, 504)
        assert "bootstrap" in told["error"]["message"]
    await idle_within(http, 10, prefill, fleet.decodes[0])


async def test_transfers_that_fail_are_not_seen_by_clients(fleet: Fleet, http: aiohttp.ClientSession) -> None:
    wanted = [await plain_text(fleet, http, prompt) for prompt in PROMPTS]
    # SGLang's own warm-up would meet these failures too; here it is the requests' failures that count.
    dice = {"SGLANG_TEST_DISAGG_FAILURE_PROB": "0.05"}
    flaky = fleet.worker("decode", env=dice, flags=["--skip-server-warmup"])
    try:
        await asyncio.to_thread(flaky.wait_ready)
        prefills = [(prefill.url, prefill.bootstrap_port) for prefill in fleet.prefills]
        # Seldom an injected failure leaves both sides waiting, which SGLang ends after 300 s.
        limit = ("--upstream-first-token-s", "30")
        with fleet.another_proxy(prefills, [*fleet.decodes, flaky], *limit) as proxy:
            await until_ready(proxy, http, 5)
            slots = asyncio.Semaphore(8)

            async def one(number: int) -> None:
                async with slots:
                    body = body_for("/generate", PROMPTS[number % 4])
                    told = await events(http, proxy, "/generate", body)
                    assert streamed_text("/generate", told) == wanted[number % 4]

            async with asyncio.TaskGroup() as tasks:
                for number in range(120):
                    tasks.create_task(one(number))
            retries = await metric(http, proxy, "pd_retries_total")
        assert sum(retries.values()) >= 3
    finally:
        assert await asyncio.to_thread(flaky.terminate) == 0
