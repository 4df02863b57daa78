"""A seed says everything."""

from __future__ import annotations

import random

from tests.chaos.plan import make_plan
from tests.chaos.traffic import make_question


def test_a_seed_makes_the_same_storm_each_time() -> None:
    assert make_plan(7, 30, 2, 3, "0.5.23") == make_plan(7, 30, 2, 3, "0.5.23")
    assert make_plan(7, 30, 2, 3, "0.5.23") != make_plan(8, 30, 2, 3, "0.5.23")


def test_the_same_seed_asks_the_same_questions() -> None:
    one, other = random.Random(7), random.Random(7)
    assert [make_question(n, one) for n in range(50)] == [make_question(n, other) for n in range(50)]


def test_the_last_fifth_of_a_storm_is_calm_and_all_kinds_come() -> None:
    plan = make_plan(7, 1000, 2, 3, "0.5.2")
    assert max(strike.at_s for strike in plan) <= 800
    assert len({strike.kind for strike in plan}) == 16
