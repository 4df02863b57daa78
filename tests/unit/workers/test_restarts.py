"""Crashes are answered by restarts, later and later, and not for ever."""

from __future__ import annotations

import random

import pytest

from workers.restarts import Restarts


def restarts(limit: int) -> Restarts:
    return Restarts(limit, 100.0, 1.0, random.Random(1))


def test_waits_double_up_to_a_minute_and_are_spread() -> None:
    made = restarts(2000)
    waits = [made.crashed(0) for _ in range(1500)]
    for number, wait_s in enumerate(waits[:12]):
        ceiling_s = min(60.0, 2.0**number)
        assert wait_s is not None
        assert ceiling_s / 2 <= wait_s <= ceiling_s
    assert waits[-1] is not None
    assert len(set(waits)) == len(waits)


@pytest.mark.parametrize("limit", [0, 1, 3])
@pytest.mark.parametrize("served_s", [0.0, 99.0])
def test_one_crash_in_a_row_more_than_the_limit_ends_it_however_long_each_start_takes(
    limit: int, served_s: float
) -> None:
    made = restarts(limit)
    waits = [made.crashed(served_s) for _ in range(limit + 1)]
    assert None not in waits[:limit]
    assert waits[limit] is None
    assert made.count == limit + 1


def test_a_life_that_served_long_enough_makes_earlier_crashes_forgotten() -> None:
    made = restarts(2)
    for _ in range(10):
        for served_s in (100.0, 0.0):
            wait_s = made.crashed(served_s)
            assert wait_s is not None
            assert wait_s <= 2
    assert made.crashed(0.0) is None


def test_a_limit_of_zero_gives_up_after_a_long_life_too() -> None:
    assert restarts(0).crashed(1e6) is None
