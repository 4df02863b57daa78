"""A drain ends when the engine says that it is idle, for long enough, and not before."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from workers.drain import Drained, Leaving, until_idle
from workers.engine_api import Load, Silent


class Time:
    """A clock that only a sleep moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        self.now_s += delay_s
        await asyncio.sleep(0)


class Engine:
    """Says one load after the other; the last for ever. None: unknown; "silent": no answer."""

    def __init__(self, *loads: float | str | None) -> None:
        self._left: Iterator[float | str | None] = iter(loads)
        self._last: float | str | None = None
        self.asked = 0

    async def load(self) -> Load | None:
        self.asked += 1
        self._last = next(self._left, self._last)
        if isinstance(self._last, str):
            raise Silent("no answer")
        return None if self._last is None else Load(busy=self._last)


async def drain(
    engine: Engine,
    time: Time,
    *,
    settle_s: float = 1.0,
    limit_s: float = 60.0,
    leaving: Leaving | None = None,
) -> Drained:
    return await until_idle(
        engine.load,
        settle_s=settle_s,
        limit_s=limit_s,
        hurried=(leaving or Leaving()).hurried,
        clock=time,
        sleep=time.sleep,
    )


async def test_idle_means_idle_for_the_whole_settling_time() -> None:
    time = Time()
    assert await drain(Engine(2, 0, 0, 1, 0), time) is Drained.IDLE
    assert time.now_s == pytest.approx(100 + 4 * 0.25 + 1.0, abs=0.26)


async def test_an_idle_engine_is_still_given_the_settling_time() -> None:
    time = Time()
    assert await drain(Engine(0), time, settle_s=5) is Drained.IDLE
    assert time.now_s >= 105


@pytest.mark.parametrize("unknown", [None, "silent"])
async def test_unknown_is_never_zero(unknown: str | None) -> None:
    time = Time()
    assert await drain(Engine(unknown), time, limit_s=30) is Drained.CUT
    assert time.now_s >= 130


@pytest.mark.parametrize("unknown", [None, "silent"])
async def test_one_unknown_reading_starts_the_settling_anew(unknown: str | None) -> None:
    time = Time()
    assert await drain(Engine(0, 0, 0, unknown, 0), time) is Drained.IDLE
    assert time.now_s >= 101.75


async def test_the_limit_cuts_what_never_ends() -> None:
    time = Time()
    assert await drain(Engine(3), time, limit_s=10) is Drained.CUT
    assert 110 <= time.now_s < 111


async def test_a_second_signal_hurries_and_a_wish_does_not() -> None:
    leaving = Leaving()
    leaving.wished(True)
    leaving.wished(False)
    leaving.begin("POST /drain")
    assert leaving.begun.is_set()
    assert leaving.why == "wish in the registry"
    leaving_twice = Leaving()
    leaving_twice.signalled("SIGTERM")
    assert not leaving_twice.hurried.is_set()
    leaving_twice.signalled("SIGTERM")
    assert leaving_twice.hurried.is_set()
    assert not leaving.hurried.is_set()
    engine = Engine(5)
    assert await drain(engine, Time(), leaving=leaving_twice) is Drained.HURRIED
    assert engine.asked == 0


async def test_a_wish_that_only_goes_is_no_wish() -> None:
    leaving = Leaving()
    leaving.wished(False)
    assert not leaving.begun.is_set()


async def test_the_first_signal_after_a_wish_hurries() -> None:
    leaving = Leaving()
    leaving.wished(True)
    leaving.signalled("SIGINT")
    assert leaving.hurried.is_set()
