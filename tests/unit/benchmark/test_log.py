"""Logs in every form that users have. What each one must give stands beside it as CSV, checked by eye."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from deploy.slurm.benchmark.cells import OK
from deploy.slurm.benchmark.log import decode, read_log
from deploy.slurm.benchmark.markers import setup_from_name
from deploy.slurm.benchmark.parser import read_sweep
from deploy.slurm.benchmark.table import write_csv
from tests.unit.benchmark.blocks import SETUP, cell, first_form, result, second_form

LOGS = sorted((Path(__file__).parent / "logs").glob("*.log"))


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.name)
def test_a_log_gives_the_table_that_stands_beside_it(log: Path) -> None:
    table = io.StringIO()
    write_csv(read_sweep(log).runs, compact=False, file=table)
    assert table.getvalue() == log.with_suffix(".csv").read_text()


def test_every_published_form_has_a_log() -> None:
    texts = [decode(log.read_bytes()) for log in LOGS]
    for form in (
        "[RUNNING] prompts  isl",
        "RUNNING: prompts  isl",
        "[RUNNING] prompts 16 isl",
        "[RUNNING] isl=",
    ):
        assert any(form in text for text in texts), form


def test_the_files_name_says_what_the_marker_does_not() -> None:
    name = "benchmark_123_20250916_101112_xP2_yD3_amd-Llama-3.3-70B-Instruct-FP8-KV_CONCURRENCY.log"
    setup = setup_from_name(name)
    assert (setup.job, setup.xp_yd) == ("123", "2p3d")
    assert setup.model == "amd-Llama-3.3-70B-Instruct-FP8-KV"
    run = read_log(second_form(cell()) + result(64, 128, 5.0), setup).runs[0]
    assert run.cell.setup == setup


def test_the_marker_wins_over_the_files_name() -> None:
    run = read_log(first_form(cell()), setup_from_name("benchmark_1_2_3_xP9_yD9_Other_CONCURRENCY.log")).runs[
        0
    ]
    assert (run.cell.setup.model, run.cell.setup.xp_yd) == ("Qwen3-32B", "1p1d")


def test_a_marker_whose_variables_were_empty_takes_the_files_name() -> None:
    line = "[RUNNING] prompts  isl 1024 osl 1024 con 64 model  xP= yD= job=\n"
    assert read_log(line, SETUP).runs[0].cell.setup == SETUP


def test_failed_requests_are_those_asked_for_that_did_not_succeed() -> None:
    assert read_log(first_form(cell(), "128") + result(64, 120, 5.0), SETUP).runs[0].failed == 8
    by_rule = read_log(first_form(cell()) + result(64, 120, 5.0), SETUP).runs[0]
    assert (by_rule.prompts, by_rule.failed, by_rule.status) == (128, 8, "8 FAILED")


def test_the_progress_bar_says_how_many_were_asked_for() -> None:
    bar = "\r  0%|          | 0/200 [00:00<?, ?it/s]\r100%|█████| 200/200 [00:10<00:00, 6.40it/s]\n"
    titled = "Generating questions: 100%|█████| 999/999 [00:10<00:00, 6.40it/s]\n"
    run = read_log(first_form(cell()) + titled + bar + result(64, 190, 5.0), SETUP).runs[0]
    assert (run.prompts, run.failed) == (200, 10)


def test_more_successes_than_the_rule_allows_leave_the_failures_unknown() -> None:
    run = read_log(first_form(cell()) + result(64, 1000, 5.0), SETUP).runs[0]
    assert (run.prompts, run.failed, run.status) == (None, None, "prompts unknown")


def test_the_averages_of_no_request_are_no_figures() -> None:
    run = read_log(first_form(cell(), "128") + result(64, 0, 0.0), SETUP).runs[0]
    assert run.failed == 128
    assert "mean_ttft_ms" not in run.figures


def test_a_result_after_the_sweeps_end_belongs_to_no_cell() -> None:
    end = "==== Benchmark Serving Concurrency End Time x =====\n"
    log = read_log(first_form(cell()) + end + result(64, 128, 5.0), SETUP)
    assert (log.runs[0].outcome, log.strays) == ("no result", 1)


def test_a_crash_says_its_last_error() -> None:
    crash = "Traceback (most recent call last):\n  File x\nrequests.exceptions.ConnectionError: refused\n"
    run = read_log(first_form(cell()) + crash, SETUP).runs[0]
    assert run.error == "requests.exceptions.ConnectionError: refused"


def test_a_result_of_a_benchmark_that_failed_in_the_end_does_not_count() -> None:
    failed = "[FAILED] isl 1024 osl 1024 con 64 iter=1 attempt=1: exit code 1\n"
    (run,) = read_log(first_form(cell()) + result(64, 128, 5.0) + failed, SETUP).runs
    assert (run.outcome, run.figures) == ("exit code 1", {})


def test_an_attempt_after_a_crash_takes_its_place_and_is_counted() -> None:
    text = first_form(cell()) + "Error: x\n" + first_form(cell()) + result(64, 128, 5.0)
    (run,) = read_log(text, SETUP).runs
    assert (run.cell.attempt, run.outcome) == (2, OK)


def test_the_same_cell_measured_twice_is_two_runs() -> None:
    text = first_form(cell()) + result(64, 128, 5.0) + first_form(cell()) + result(64, 128, 6.0)
    assert [run.figures["mean_ttft_ms"] for run in read_log(text, SETUP).runs] == [5.0, 6.0]


def test_a_line_that_a_progress_bar_left_open_hides_no_figure() -> None:
    left_open = result(64, 128, 5.0).replace("Mean TTFT", "loading 3 of 4\rMean TTFT")
    (run,) = read_log(first_form(cell()) + left_open, SETUP).runs
    assert run.figures["mean_ttft_ms"] == 5.0


def test_two_sweeps_in_one_log_keep_all_their_cells() -> None:
    rounds = "RUNNING: the benchserving script for iter: 1\n" + first_form(cell()) + result(64, 128, 5.0)
    assert len(read_log(rounds + rounds.replace("5.00", "6.00"), SETUP).runs) == 2
