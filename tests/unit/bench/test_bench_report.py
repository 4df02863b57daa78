from __future__ import annotations

from dataclasses import replace

import pytest

from bench import report, runner
from bench.scenarios import SCENARIOS, Bar, Scenario, http_request, quick, with_tokens

CPU = "cpu_us_per_request"
SCENARIO = replace(SCENARIOS["small"], bars=(Bar(CPU, 0.40),))


def _result(ours: list[float], theirs: list[float]) -> runner.Result:
    rounds = {"ours": [{CPU: value} for value in ours], "theirs": [{CPU: value} for value in theirs]}
    return runner.Result(SCENARIO, rounds)


def test_each_round_is_compared_with_itself() -> None:
    # The machine slows down by ten in the last rounds, for both alike.
    result = _result([40, 40, 400, 400, 400], [100, 100, 1000, 1000, 1000])
    assert report.ratio(result, CPU) == pytest.approx(0.4)


def test_one_bad_round_does_not_break_a_bar() -> None:
    [verdict] = report.verdicts(_result([30, 30, 90], [100, 100, 100]))
    assert verdict.value == pytest.approx(0.3)
    assert verdict.is_kept


def test_a_figure_over_the_limit_breaks_the_bar() -> None:
    [verdict] = report.verdicts(_result([41, 41, 41], [100, 100, 100]))
    assert not verdict.is_kept
    assert "BROKEN" in report.table(_result([41], [100]))


def test_what_was_not_measured_is_not_kept() -> None:
    [verdict] = report.verdicts(runner.Result(SCENARIO, {"ours": [{CPU: 1.0}]}))
    assert verdict.value is None
    assert not verdict.is_kept


def test_an_absolute_bar_looks_at_ours_alone() -> None:
    scenario = replace(SCENARIO, bars=(Bar("kb_per_stream", 15, is_ratio=False),))
    result = runner.Result(scenario, {"ours": [{"kb_per_stream": 14.0}], "theirs": [{"kb_per_stream": 1.0}]})
    [verdict] = report.verdicts(result)
    assert verdict.value == 14.0
    assert verdict.is_kept


def test_cpu_is_divided_by_what_the_window_counted() -> None:
    seen = {
        "requests": 200,
        "events": 0,
        "seconds": 2.0,
        "cpu_ns": 10_000_000,
        "latency_us": {"p50": 5.0, "p99": 9.0},
    }
    assert runner.figures(seen, SCENARIO) == {
        "latency_p50_us": 5.0,
        "latency_p99_us": 9.0,
        "requests_per_s": 100.0,
        "cpu_us_per_request": 50.0,
    }


def test_a_stream_is_counted_in_events() -> None:
    seen = {"requests": 0, "events": 1000, "seconds": 2.0, "cpu_ns": 20_000_000}
    assert runner.figures(seen, SCENARIOS["stream"]) == {"events_per_s": 500.0, "cpu_us_per_event": 20.0}


def test_a_window_without_a_request_gives_no_cost() -> None:
    assert runner.figures({"requests": 0, "events": 0, "seconds": 1.0, "cpu_ns": 5}, SCENARIO) == {}


def test_added_latency_is_over_the_stub_of_the_same_round() -> None:
    rounds = {
        "direct": [{"gap_p50_us": 10.0}, {"gap_p50_us": 20.0}],
        "ours": [{"gap_p50_us": 15.0}, {"gap_p50_us": 22.0}],
    }
    runner.add_what_proxies_add(rounds)
    assert [sample["added_gap_p50_us"] for sample in rounds["ours"]] == [5.0, 2.0]
    assert "added_gap_p50_us" not in rounds["direct"][0]


def test_json_has_every_round_and_every_verdict() -> None:
    result = _result([30, 50, 40], [100, 100, 100])
    summary = report.as_json(result)
    assert [sample[CPU] for sample in summary["rounds"]["ours"]] == [30, 50, 40]
    assert summary["bars"] == [
        {"metric": CPU, "is_ratio": True, "limit": 0.40, "value": 0.4, "is_kept": True}
    ]


def test_a_failure_stands_in_the_table() -> None:
    assert "FAILED: ours, round 1: 3 failed" in report.table(
        runner.Result(SCENARIO, {"ours": [{CPU: 1.0}]}, ["ours, round 1: 3 failed"])
    )


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_a_request_says_its_true_length(scenario: Scenario) -> None:
    head, _, body = http_request(scenario.body()).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert (b'"stream": true' in body[-100:]) == scenario.is_stream


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_a_window_ends_before_the_first_stream_does(scenario: Scenario) -> None:
    for asked in (scenario, quick(scenario)):
        if asked.is_stream and not asked.hold_after:
            assert asked.tokens * asked.interval_ms > asked.ramp_ms + asked.window_s * 1000


def test_resting_streams_have_one_event_left_to_prove_that_they_live() -> None:
    longer = with_tokens(SCENARIOS["idle"], 2000)
    assert (longer.hold_after, longer.tokens) == (2000, 2001)
