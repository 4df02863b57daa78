"""How workers are told to abort: at a rate, again where it failed, and never without bound."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.clock import SystemClock, sleep
from proxy.upstream.aborter import Aborter, AborterRules
from proxy.upstream.inquiries import Inquiries
from tests.flow.scripted import Visit, start_worker, whole
from tests.support.engines import start_engine
from tests.support.proxies import eventually

Results = dict[str, int]


@asynccontextmanager
async def start_aborter(
    *, running: bool = True, rules: AborterRules | None = None
) -> AsyncIterator[tuple[Aborter, Results]]:
    inquiries = Inquiries(None, 1.0)
    results = {"sent": 0, "failed": 0, "dropped": 0}
    aborter = Aborter(rules or AborterRules(), inquiries, results, SystemClock(), sleep)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(aborter.run()) if running else None
        try:
            yield aborter, results
        finally:
            if task is not None:
                task.cancel()
            await inquiries.close()


async def test_a_worker_is_told_no_faster_than_the_rate() -> None:
    async with start_engine("decode") as engine, start_aborter(rules=AborterRules(per_s=40)) as (aborter, _):
        began = time.monotonic()
        for number in range(60):
            aborter.tell(engine.worker, f"rid-{number}")
        await eventually(lambda: len(engine.engine.state()["aborts"]) == 60)
        # Ten at once, fifty more at forty a second.
        assert time.monotonic() - began >= 1.2
        assert {one["rid"] for one in engine.engine.state()["aborts"]} == {f"rid-{n}" for n in range(60)}


async def test_workers_do_not_wait_for_each_other() -> None:
    async def silent(visit: Visit) -> None:
        await visit.gone()

    async with (
        start_worker("decode", silent) as stuck,
        start_engine("decode") as engine,
        start_aborter() as (aborter, results),
    ):
        stuck.scripts_aborts = True
        for number in range(100):
            aborter.tell(stuck.worker, f"a-{number}")
            aborter.tell(engine.worker, f"b-{number}")
        await eventually(lambda: len(engine.engine.state()["aborts"]) == 100, 5)
        assert results["sent"] == 100
        assert aborter.waiting > 50


async def test_the_oldest_go_when_a_queue_is_full() -> None:
    rules = AborterRules(queue=3)
    async with (
        start_engine("decode") as engine,
        start_aborter(running=False, rules=rules) as (aborter, results),
    ):
        for number in range(5):
            aborter.tell(engine.worker, f"rid-{number}")
        assert (aborter.waiting, results["dropped"]) == (3, 2)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(aborter.run())
            await eventually(lambda: results["sent"] == 3)
            task.cancel()
        assert {one["rid"] for one in engine.engine.state()["aborts"]} == {"rid-2", "rid-3", "rid-4"}


async def test_an_abort_that_failed_is_sent_again() -> None:
    async def second_time(visit: Visit) -> None:
        await visit.say(whole(b"{}", status=b"500 No" if visit.number == 0 else b"200 OK"))

    async with start_worker("decode", second_time) as worker, start_aborter() as (aborter, results):
        worker.scripts_aborts = True
        aborter.tell(worker.worker, "mine")
        await eventually(lambda: results["sent"] == 1)
        assert [visit.body for visit in worker.visits] == [b'{"rid":"mine"}'] * 2


async def test_a_worker_that_never_takes_it_is_given_up() -> None:
    async def never(visit: Visit) -> None:
        await visit.say(whole(b"{}", status=b"500 No"))

    rules = AborterRules(again_s=0.01)
    async with start_worker("decode", never) as worker, start_aborter(rules=rules) as (aborter, results):
        worker.scripts_aborts = True
        aborter.tell(worker.worker, "mine")
        await eventually(lambda: results["failed"] == 1)
        assert len(worker.visits) == rules.tries


async def test_what_comes_too_late_is_not_sent() -> None:
    rules = AborterRules(deadline_s=0.0)
    async with start_engine("decode") as engine, start_aborter(rules=rules) as (aborter, results):
        aborter.tell(engine.worker, "mine")
        await eventually(lambda: results["failed"] == 1)
        assert engine.engine.state()["aborts"] == []


async def test_nobody_there_is_asked_once() -> None:
    async with start_engine("decode") as engine:
        gone = engine.worker
    async with start_aborter(rules=AborterRules(again_s=30.0)) as (aborter, results):
        aborter.tell(gone, "mine")
        await eventually(lambda: results["failed"] == 1)
