"""A wait that no worker is behind ends at its deadline, or when its client says so."""

from __future__ import annotations

import asyncio

from proxy.clock import SystemClock
from proxy.flow.trail import Trail
from proxy.flow.waits import Waits
from proxy.upstream.outcome import ABORTED, Failure, Outcome

NEVER = float("inf")


def waits() -> Waits:
    return Waits(SystemClock(), asyncio.get_running_loop())


async def for_ever() -> None:
    await asyncio.Event().wait()


async def found() -> str:
    return "it"


async def test_what_was_waited_for_is_handed_on() -> None:
    assert await waits().until(found, Trail(0.0), NEVER) == "it"


async def test_an_aborted_request_begins_no_wait() -> None:
    trail = Trail(0.0)
    trail.aborted = True
    assert await waits().until(for_ever, trail, NEVER) is ABORTED


async def test_a_wait_ends_at_its_deadline() -> None:
    got = await waits().until(for_ever, Trail(0.0), SystemClock().monotonic() + 0.01)
    assert isinstance(got, Failure)
    assert got.outcome is Outcome.DEADLINE


async def test_only_the_waits_that_are_meant_are_cut_short() -> None:
    here, mine, other = waits(), Trail(0.0), Trail(1.0)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(here.until(for_ever, mine, NEVER))
        second = group.create_task(here.until(for_ever, mine, NEVER))
        third = group.create_task(here.until(for_ever, other, NEVER))
        await asyncio.sleep(0)
        assert here.abort(lambda trail: trail is mine) == 2
        assert here.abort(lambda trail: trail is mine) == 0
        assert (await first, await second) == (ABORTED, ABORTED)
        assert not third.done()
        assert here.abort(lambda trail: True) == 1


async def test_a_waiter_that_is_cancelled_is_cancelled_and_forgotten() -> None:
    here = waits()
    task = asyncio.ensure_future(here.until(for_ever, Trail(0.0), NEVER))
    await asyncio.sleep(0)
    task.cancel()
    assert (await asyncio.wait([task]))[0]
    assert task.cancelled()
    assert here.abort(lambda trail: True) == 0
