from __future__ import annotations

import pytest

from proxy.routing.evidence import SPANS, Tally, baseline, stands_above, without_worst


def test_spans_grow_backwards_and_forget_what_is_older_than_the_window() -> None:
    tally = Tally()
    for part in range(SPANS + 5):
        tally.add(part, part % 2)
    spans = tally.spans(SPANS + 4, -1)
    assert spans[0] == (1, 0)
    assert spans[1] == (2, 1)
    assert spans[-1] == (SPANS, SPANS // 2)
    assert tally.spans(SPANS + 1000, -1)[-1] == (0, 0)


def test_forgiven_parts_are_no_evidence() -> None:
    tally = Tally()
    tally.add(1, 1)
    tally.add(2, 1)
    tally.add(2, 0)
    tally.forgiven = 1
    assert tally.rate(2) == 0.5
    tally.forgiven = 2
    assert tally.rate(2) == 0.0


@pytest.mark.parametrize(
    ("requests", "failed", "usual", "above"),
    [
        (7, 7, 0.0, False),  # fewer than the least number
        (8, 8, 0.0, True),
        (8, 7, 0.0, False),
        (42, 21, 0.0, True),
        (20, 10, 0.0, False),
        (1000, 100, 0.0, False),
        (1000, 500, 0.5, False),
        (30, 30, 0.5, False),
        (60, 60, 0.5, True),
        (10000, 10000, 1.0, False),
        (-3, -2, 0.0, False),
    ],
)
def test_only_a_rate_that_chance_does_not_explain_stands_above(
    requests: int, failed: int, usual: float, above: bool
) -> None:
    assert stands_above([(0, 0), (requests, failed)], usual, 8) is above


def test_what_has_just_broken_stands_above_however_long_it_was_well() -> None:
    assert stands_above([(8, 8), (10_000, 8)], 0.0, 8)


def test_the_baseline_is_the_lower_quartile_and_those_without_failures_count() -> None:
    assert baseline([]) is None
    assert baseline([0.3]) == 0.3
    assert baseline([0.4, 0.1, 0.2, 0.3]) == 0.2
    assert baseline([0.9], clean=1) == 0.0
    assert baseline([0.5, 0.9, 0.8], clean=1) == 0.5


def test_the_worst_edge_is_the_one_that_explains_most_not_the_one_used_most() -> None:
    busy, bad = [(1000, 20)], [(30, 15)]
    assert without_worst([(1030, 35)], [busy, bad]) == [(1000, 20)]
    assert without_worst([(5, 2)], []) == [(5, 2)]
