from __future__ import annotations

import asyncio

import pytest

from workers.engine.config import EngineConfig
from workers.engine.faults import Fault, Faults
from workers.engine.jobs import Aborted, BadInput, Failure, Job, Sampling
from workers.engine.prefix_cache import PrefixCache
from workers.engine.scheduler import Scheduler


def job(rid: str) -> Job:
    return Job(rid, [1], Sampling())


@pytest.mark.parametrize(
    ("version", "modern"), [("0.5.2", False), ("0.5.2rc1", False), ("0.5.10", True), ("0.5.23", True)]
)
def test_the_generation_is_read_from_the_version(version: str, modern: bool) -> None:
    assert EngineConfig(engine_version=version).modern is modern


async def test_slots_are_given_first_come_first_served() -> None:
    scheduler, order = Scheduler(1, None, True), list[str]()
    first = job("first")
    await scheduler.enter(first)

    async def wait(name: str) -> None:
        one = job(name)
        await scheduler.enter(one)
        order.append(name)
        scheduler.leave(one)

    async with asyncio.TaskGroup() as tasks:
        for name in "abc":
            tasks.create_task(wait(name))
        await asyncio.sleep(0)
        assert scheduler.queued == 3
        scheduler.leave(first)
    assert order == ["a", "b", "c"]
    assert scheduler.running == scheduler.queued == 0


async def test_a_full_queue_refuses() -> None:
    scheduler = Scheduler(1, 0, True)
    await scheduler.enter(job("a"))
    with pytest.raises(Failure, match="The request queue is full") as caught:
        await scheduler.enter(job("b"))
    assert caught.value.status == 503


async def test_an_abort_ends_a_wait_and_frees_the_place() -> None:
    scheduler, waiting = Scheduler(1, None, True), job("x_1")
    await scheduler.enter(job("a"))
    with scheduler.alive([waiting]):
        task = asyncio.create_task(scheduler.enter(waiting))
        await asyncio.sleep(0)
        assert scheduler.abort("x") == 1
        with pytest.raises(Aborted):
            await task
    assert scheduler.queued == 0


async def test_a_cancellation_from_outside_is_no_abort() -> None:
    scheduler, waiting = Scheduler(1, None, True), job("x")
    await scheduler.enter(job("a"))
    task = asyncio.create_task(scheduler.enter(waiting))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert scheduler.queued == 0


def test_rids_match_by_prefix_and_an_empty_one_matches_nothing() -> None:
    scheduler = Scheduler(9, None, True)
    with scheduler.alive([job("ab_0"), job("ab_1"), job("b")]):
        assert scheduler.abort("") == 0
        assert scheduler.abort("ab") == 2
        assert scheduler.abort("", everything=True) == 3


def test_a_live_rid_is_refused_by_the_new_generation_only() -> None:
    for unique in (True, False):
        scheduler = Scheduler(9, None, unique)
        with scheduler.alive([job("a")]):
            if unique:
                with pytest.raises(BadInput, match="Duplicate"), scheduler.alive([job("a")]):
                    pass
            else:
                with scheduler.alive([job("a")]):
                    assert scheduler.live == 2
        with scheduler.alive([job("a")]):
            assert scheduler.live == 1


def test_the_prefix_cache_knows_whole_pages_but_never_the_last_token() -> None:
    cache = PrefixCache(1000, 4)
    assert cache.visit(list(range(8))) == 0
    assert cache.visit(list(range(8))) == 7
    assert cache.visit([*range(4), 99, 99, 99, 99]) == 4
    assert cache.visit([99, *range(8)]) == 0


def test_the_prefix_cache_is_bounded() -> None:
    cache = PrefixCache(8, 4)
    cache.visit([1] * 4)
    cache.visit([2] * 8)
    assert cache.visit([1] * 4) == 0


def test_faults_hit_as_often_as_they_say_and_where() -> None:
    faults = Faults(0)
    faults.add(Fault(kind="empty", count=2, routes=("/generate",)))
    assert faults.pick("/v1/completions") is None
    assert [faults.pick("/generate") is not None for _ in range(3)] == [True, True, False]


def test_the_same_seed_throws_the_same_dice() -> None:
    def thrown() -> list[bool]:
        faults = Faults(0)
        faults.add(Fault(kind="empty", probability=0.5), seed=7)
        return [faults.pick("/generate") is not None for _ in range(50)]

    assert thrown() == thrown()
    assert 10 < sum(thrown()) < 40
