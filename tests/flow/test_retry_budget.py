"""A sick fleet is not stormed, and a worker that says when to come back is not asked before."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

from tests.flow.scripted import ANSWER, Visit, answer_at_once, post, read_frame, start_worker, whole
from tests.flow.talk import GENERATE, Fleet, ask, body_for, fault_all, right_text, start_fleet
from tests.support.proxies import Proxy, start_proxy

QUICK = {"initial_backoff_s": 0.001, "max_backoff_s": 0.002}
NO_BREAKER = {"enabled": False}


async def many(fleet: Fleet, count: int) -> list[int]:
    """The statuses of so many requests, 32 at a time."""
    gate = asyncio.Semaphore(32)

    async def one(number: int) -> int:
        async with gate:
            body = body_for(GENERATE, f"{number}", 4, stream=number % 2 == 0)
            return (await ask(fleet.http, GENERATE, body)).status

    return list(await asyncio.gather(*(one(number) for number in range(count))))


async def test_a_fleet_that_fails_whole_is_asked_little_more_than_by_its_clients() -> None:
    settings = {"retries": {**QUICK, "budget_floor_per_s": 1.0}, "breaker": NO_BREAKER}
    async with start_fleet(2, 2, settings=settings) as fleet:
        await fault_all(fleet.decodes, "status", status=500)
        assert set(await many(fleet, 200)) == {500}
        metrics = fleet.proxy.service.metrics
        # A fifth of the requests, and the floor of ten seconds; without a budget it would be 1,000.
        assert 200 < metrics.attempts <= 250 + 1
        assert metrics.retries_refused >= 150


async def test_a_refused_retry_shows_the_failure_as_it_was_and_the_attempts_made() -> None:
    settings = {"retries": {**QUICK, "budget_floor_per_s": 0, "budget_ratio": 0}}
    async with start_fleet(1, 2, settings=settings) as fleet:
        await fault_all(fleet.decodes, "status", status=500, message="something broke")
        got = await ask(fleet.http, GENERATE, body_for(GENERATE))
        assert (got.status, got.headers["X-PD-Attempts"]) == (500, "1")
        assert "something broke" in got.json["error"]["message"]
        page = await (await fleet.http.get("/metrics")).text()
        assert "pd_retries_refused_total 1.0" in page
        assert "pd_retry_budget_left 0.0" in page
        assert "pd_request_loss_ratio 1.0" in page


async def test_with_half_the_workers_failing_there_is_no_storm_and_once_benched_no_failure() -> None:
    async with start_fleet(2, 4, settings={"retries": QUICK}) as fleet:
        await fault_all(fleet.decodes[:2], "status", status=500)
        assert set(await many(fleet, 100)) == {200}
        before = fleet.proxy.service.metrics.attempts
        assert set(await many(fleet, 200)) == {200}
        assert fleet.proxy.service.metrics.attempts - before <= 1.2 * 200


async def test_dead_workers_are_worked_around_though_no_budget_is_there() -> None:
    settings = {"retries": {**QUICK, "budget_floor_per_s": 0, "budget_ratio": 0}, "breaker": NO_BREAKER}
    async with start_fleet(1, 2, settings=settings) as fleet:
        await fleet.decodes[0].engine.refuse()
        assert set(await many(fleet, 40)) == {200}
        assert fleet.proxy.service.metrics.retries_refused == 0
        await fleet.decodes[0].engine.accept()


async def test_an_outcome_that_the_operator_named_is_not_tried_again() -> None:
    async with start_fleet(1, 2, settings={"retries": {**QUICK, "never": ["engine_error"]}}) as fleet:
        await fault_all(fleet.decodes, "status", status=500, count=1)
        assert (await ask(fleet.http, GENERATE, body_for(GENERATE))).headers["X-PD-Attempts"] == "1"
        await fleet.decodes[0].clear_faults()
        await fleet.decodes[1].clear_faults()
        await fault_all(fleet.decodes, "kv_transfer", count=1)
        await right_text(fleet.http, GENERATE, body_for(GENERATE))


def busy_once(wait_s: int) -> Any:
    """A script: the first answer is a refusal that says when to come back."""

    async def script(visit: Visit) -> None:
        if visit.number:
            await visit.say(whole(ANSWER))
        else:
            await visit.say(whole(b"{}", b"Retry-After: %d" % wait_s, status=b"503 Busy"))

    return script


async def asked(proxy: Proxy) -> tuple[int, dict[str, str], float]:
    """Status, headers and duration of one request."""
    began = time.monotonic()
    reader, writer = await proxy.connect()
    writer.write(post())
    frame = await read_frame(reader)
    writer.close()
    return frame.status, frame.headers, time.monotonic() - began


async def scripted_pair(stack: AsyncExitStack, role: str, wait_s: int, **settings: Any) -> Any:
    scripts = {"prefill": answer_at_once, "decode": answer_at_once, role: busy_once(wait_s)}
    workers = [
        await stack.enter_async_context(start_worker(name, script)) for name, script in scripts.items()
    ]
    proxy = await stack.enter_async_context(start_proxy(workers[:1], workers[1:], **settings))
    return proxy, next(worker for worker in workers if worker.role == role)


async def test_the_same_worker_is_left_alone_for_as_long_as_it_said() -> None:
    for role in ("decode", "prefill"):
        async with AsyncExitStack() as stack:
            proxy, worker = await scripted_pair(stack, role, 1, retries=QUICK)
            status, headers, took_s = await asked(proxy)
            assert (status, headers["x-pd-attempts"]) == (200, "2")
            assert took_s >= 0.95
            assert len(worker.visits) == 2


async def test_a_wait_that_is_too_long_is_left_to_the_client() -> None:
    async with AsyncExitStack() as stack:
        proxy, worker = await scripted_pair(stack, "decode", 600, retries=QUICK)
        status, headers, _ = await asked(proxy)
        assert (status, headers["retry-after"], headers["x-pd-attempts"]) == (503, "600", "1")
        assert len(worker.visits) == 1


async def test_another_worker_is_asked_at_once() -> None:
    async with AsyncExitStack() as stack:
        prefills = [await stack.enter_async_context(start_worker("prefill")) for _ in range(2)]
        decodes = [await stack.enter_async_context(start_worker("decode", busy_once(600))) for _ in range(2)]
        decodes[1].script = answer_at_once
        proxy = await stack.enter_async_context(start_proxy(prefills, decodes, retries=QUICK))
        for _ in range(4):
            assert (await asked(proxy))[0] == 200
        assert len(decodes[0].visits) >= 1
