from __future__ import annotations

import pytest

from proxy.routing.breaker import Breaker, Settlement


def _breaker() -> Breaker:
    return Breaker(1.0, 4.0, 60.0)


def _opened() -> Breaker:
    breaker = _breaker()
    breaker.open(0.0)
    return breaker


def test_an_open_one_admits_one_trial_after_its_time() -> None:
    breaker = _opened()
    assert not breaker.admits(0.9)
    assert breaker.admits(1.0)
    breaker.permit(1.0)
    assert not breaker.admits(100.0)


def test_a_good_trial_closes_it() -> None:
    breaker = _opened()
    breaker.settle(breaker.permit(1.0), Settlement.SUCCESS, 1.0)
    assert breaker.closed
    assert breaker.bench_s == 0.0


@pytest.mark.parametrize("said", [Settlement.FAILURE, Settlement.SEVERED])
def test_each_bad_trial_doubles_the_bench_up_to_its_bound(said: Settlement) -> None:
    breaker, now = _opened(), 0.0
    for bench_s in (1.0, 2.0, 4.0, 4.0):
        assert breaker.bench_s == bench_s
        assert not breaker.admits(now + bench_s - 0.1)
        now += bench_s
        breaker.settle(breaker.permit(now), said, now)
        assert not breaker.closed


def test_a_trial_that_proves_nothing_gives_way_to_another() -> None:
    breaker = _opened()
    breaker.settle(breaker.permit(1.0), Settlement.IGNORED, 1.0)
    assert breaker.admits(1.0)


def test_one_sent_although_it_was_open_can_close_it_but_not_prolong_it() -> None:
    breaker = _opened()
    first, second = breaker.permit(0.5), breaker.permit(0.5)
    breaker.settle(first, Settlement.FAILURE, 0.9)
    assert breaker.admits(1.0)
    breaker.settle(second, Settlement.SUCCESS, 0.95)
    assert breaker.closed


def test_one_sent_although_it_was_open_does_not_end_the_trial() -> None:
    breaker = _opened()
    other, trial = breaker.permit(0.5), breaker.permit(1.0)
    breaker.settle(other, Settlement.IGNORED, 1.1)
    assert not breaker.admits(1.1)
    breaker.settle(trial, Settlement.IGNORED, 1.2)
    assert breaker.admits(1.2)


def test_an_answer_from_before_the_opening_proves_nothing() -> None:
    breaker = _breaker()
    old = breaker.permit(0.0)
    assert breaker.trusts(old)
    breaker.open(0.0)
    assert not breaker.trusts(old)
    breaker.settle(old, Settlement.SUCCESS, 0.5)
    assert not breaker.closed
    breaker.settle(breaker.permit(1.0), Settlement.SUCCESS, 1.0)
    assert not breaker.trusts(old)


def test_a_relapse_counts_like_a_bad_trial_until_it_is_forgotten() -> None:
    for closed_for_s, bench_s in ((59.0, 2.0), (60.0, 1.0)):
        breaker = _opened()
        breaker.settle(breaker.permit(1.0), Settlement.SUCCESS, 1.0)
        breaker.open(1.0 + closed_for_s, relapse=True)
        assert breaker.bench_s == bench_s
    breaker = _opened()
    breaker.settle(breaker.permit(1.0), Settlement.SUCCESS, 1.0)
    breaker.open(2.0)
    assert breaker.bench_s == 1.0
