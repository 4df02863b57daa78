from __future__ import annotations

from proxy.routing.breaker import Breaker, BreakerRules, Settlement


def _opened(rules: BreakerRules) -> Breaker:
    breaker = Breaker(rules)
    for _ in range(rules.failures):
        breaker.settle(breaker.permit(), Settlement.FAILURE, 0.0)
    return breaker


def test_failures_in_a_row_open_it() -> None:
    breaker = Breaker(BreakerRules(failures=3))
    for expected in (True, True, False):
        breaker.settle(breaker.permit(), Settlement.FAILURE, 0.0)
        assert breaker.closed is expected


def test_a_success_between_failures_keeps_it_closed() -> None:
    breaker = Breaker(BreakerRules(failures=2))
    for said in (Settlement.FAILURE, Settlement.SUCCESS, Settlement.FAILURE):
        breaker.settle(breaker.permit(), said, 0.0)
    assert breaker.closed


def test_what_proves_nothing_changes_nothing() -> None:
    breaker = Breaker(BreakerRules(failures=1))
    breaker.settle(breaker.permit(), Settlement.IGNORED, 0.0)
    assert breaker.closed


def test_an_open_one_admits_one_trial_after_its_time() -> None:
    breaker = _opened(BreakerRules(failures=2, open_s=10.0))
    assert not breaker.admits(9.9)
    assert breaker.admits(10.0)
    breaker.permit()
    assert not breaker.admits(10.0)


def test_a_good_trial_closes_it_and_a_bad_one_opens_it_anew() -> None:
    for said, closed in ((Settlement.SUCCESS, True), (Settlement.FAILURE, False)):
        breaker = _opened(BreakerRules(failures=2, open_s=10.0))
        breaker.settle(breaker.permit(), said, 10.0)
        assert breaker.closed is closed
        assert breaker.admits(19.9) is closed


def test_a_trial_that_proves_nothing_gives_way_to_another() -> None:
    breaker = _opened(BreakerRules(failures=2, open_s=10.0))
    breaker.settle(breaker.permit(), Settlement.IGNORED, 10.0)
    assert breaker.admits(10.0)


def test_an_answer_from_before_the_opening_proves_nothing() -> None:
    breaker = Breaker(BreakerRules(failures=2, open_s=10.0))
    old = breaker.permit()
    for _ in range(2):
        breaker.settle(breaker.permit(), Settlement.FAILURE, 0.0)
    breaker.settle(old, Settlement.SUCCESS, 1.0)
    assert not breaker.closed
    breaker.settle(old, Settlement.FAILURE, 9.0)
    assert breaker.admits(10.0)
