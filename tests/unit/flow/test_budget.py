"""The retry budget, and the pace at which a dead worker's requests go elsewhere."""

from __future__ import annotations

import random

import pytest

from proxy.flow.budget import BudgetRules, RetryBudget
from proxy.flow.deaths import DeathRules, Deaths

START = 100_000.0


def test_without_requests_the_floor_is_there_and_no_more() -> None:
    budget = RetryBudget(BudgetRules(ratio=0.2, floor_per_s=1.0, window_s=10.0))
    assert [budget.spend(START) for _ in range(12)] == [True] * 10 + [False] * 2


def test_retries_are_a_share_of_the_requests_of_the_window() -> None:
    budget = RetryBudget(BudgetRules(ratio=0.2, floor_per_s=0.0))
    for number in range(100):
        budget.earn(START + number / 50)
    assert sum(budget.spend(START + 3) for _ in range(100)) == 20


def test_what_was_spent_comes_back_when_it_leaves_the_window() -> None:
    budget = RetryBudget(BudgetRules(ratio=0.0, floor_per_s=1.0, window_s=10.0))
    for second in range(10):
        assert budget.spend(START + second)
    assert not budget.spend(START + 9.9)
    assert budget.spend(START + 10)
    assert not budget.spend(START + 10.5)
    assert budget.left(START + 1000) == 10


def test_what_was_earned_is_forgotten_as_well() -> None:
    budget = RetryBudget(BudgetRules(ratio=1.0, floor_per_s=0.0, window_s=10.0))
    budget.earn(START)
    assert budget.left(START + 9.9) == 1
    assert budget.left(START + 10) == 0


def test_a_charge_is_taken_though_nothing_is_left() -> None:
    budget = RetryBudget(BudgetRules(ratio=0.0, floor_per_s=0.1, window_s=10.0))
    budget.charge(START)
    budget.charge(START)
    assert budget.left(START) == -1
    assert not budget.spend(START)


def test_the_books_agree_with_a_naive_count() -> None:
    rng, now, rules = random.Random(5), START, BudgetRules(ratio=0.3, floor_per_s=2.0, window_s=10.0)
    budget = RetryBudget(rules)
    requests: list[int] = []
    retries: list[int] = []
    for _ in range(3000):
        now += rng.choice([0.0, 0.01, 0.3, 1.0, 0.0, 0.0, 25.0 if rng.random() < 0.01 else 0.0])
        slot = int(now)
        within = range(slot - 9, slot + 1)
        left = 0.3 * sum(s in within for s in requests) + 20 - sum(s in within for s in retries)
        assert budget.left(now) == pytest.approx(left)
        if rng.random() < 0.6:
            budget.earn(now)
            requests.append(slot)
        elif budget.spend(now):
            retries.append(slot)
        else:
            assert left < 1


def test_only_the_first_sign_of_a_death_is_the_first() -> None:
    deaths = Deaths(DeathRules(redispatch_per_s=100.0, quiet_s=10.0))
    assert [deaths.turn("d0", START + n).first for n in (0, 1, 9, 18)] == [True, False, False, False]
    assert deaths.turn("d0", START + 28.1).first
    assert deaths.turn("d1", START + 28.1).first


def test_a_dead_workers_requests_go_on_at_a_pace_and_all_of_them_go() -> None:
    deaths = Deaths(DeathRules(redispatch_per_s=100.0))
    waits = [deaths.turn("d0", START).wait_s for _ in range(512)]
    assert waits[:9] == [0.0] * 9
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(5.02)
    for second in range(1, 5):
        assert sum(second <= wait < second + 1 for wait in waits) <= 101


def test_the_dead_are_forgotten_in_the_end() -> None:
    deaths = Deaths(DeathRules())
    for number in range(5000):
        deaths.turn(f"d{number}", START)
    assert len(deaths._known) <= 1024
