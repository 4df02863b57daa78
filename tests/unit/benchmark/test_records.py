"""JSON is exact, and is used only where it is surely the run's own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.slurm.benchmark.cells import OK, Run
from deploy.slurm.benchmark.records import read_records, read_result, record
from tests.unit.benchmark.blocks import cell

RESULT = {
    "max_concurrency": 64,
    "completed": 128,
    "total_input_tokens": 1024,
    "total_output_tokens": 2048,
    "duration": 10.0012,
    "mean_ttft_ms": 5.4321,
    "accept_length": None,
}
SHOWN = {
    **{name: value for name, value in RESULT.items() if value is not None},
    "duration": 10.0,
    "mean_ttft_ms": 5.43,
}
NO_CELL = '{"cell": {"isl": "x"}, "result": {"completed": 1}}\n'
RUN = Run(cell(), SHOWN, OK)


def written(folder: Path, *lines: str) -> Path:
    file = folder / "x.jsonl"
    file.write_text("".join(lines))
    return file


def plain(**changes: Any) -> str:
    return json.dumps({**RESULT, **changes}) + "\n"


def test_a_result_that_names_its_cell_is_that_cells_even_when_the_text_lost_it(tmp_path: Path) -> None:
    records = read_records(written(tmp_path, record(cell(), OK, 1.0, RESULT)))
    lost = Run(cell(), {}, "cut off", "Error: x")
    exact = records.exact(lost)
    assert (exact.figures["mean_ttft_ms"], exact.outcome, exact.error) == (5.4321, OK, "")


def test_a_result_of_another_attempt_or_round_is_not_the_runs(tmp_path: Path) -> None:
    records = read_records(written(tmp_path, record(cell(), OK, 1.0, RESULT)))
    for other in (replace(cell(), attempt=2), replace(cell(), iteration=2), cell(osl=100)):
        crashed = Run(other, {}, "exit code 1")
        assert records.exact(crashed) == crashed


def test_a_plain_result_is_used_where_it_equals_the_text(tmp_path: Path) -> None:
    exact = read_records(written(tmp_path, plain())).exact(RUN)
    assert exact.figures["mean_ttft_ms"] == 5.4321


@pytest.mark.parametrize("other", [{"completed": 127}, {"duration": 11.0}, {"max_concurrency": 8}])
def test_a_plain_result_is_never_given_to_a_run_that_it_does_not_equal(
    other: dict[str, float], tmp_path: Path
) -> None:
    assert read_records(written(tmp_path, plain(**other))).exact(RUN) == RUN


def test_a_plain_result_is_never_given_to_a_run_without_one(tmp_path: Path) -> None:
    crashed = Run(cell(), {}, "no result")
    assert read_records(written(tmp_path, plain())).exact(crashed) == crashed


def test_two_plain_results_that_both_fit_are_both_left_alone(tmp_path: Path) -> None:
    assert read_records(written(tmp_path, plain(), plain(mean_ttft_ms=6.0))).exact(RUN) == RUN


def test_what_is_no_json_object_is_passed_over(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "\n",
        "[1]\n",
        "nonsense\n",
        '{"cell": {"isl": "x"}, "result": {"completed": 1}}\n',
        plain(),
        '{"cut',
    )
    assert read_records(file).exact(RUN).figures["mean_ttft_ms"] == 5.4321


def test_the_vllm_texts_failed_count_survives(tmp_path: Path) -> None:
    run = replace(RUN, cell=cell(prompts=None), figures={**SHOWN, "failed": 3.0})
    assert read_records(written(tmp_path, plain())).exact(run).failed == 3


def test_the_benchmarks_last_result_is_read_and_a_file_without_one_is_none(tmp_path: Path) -> None:
    assert read_result(tmp_path / "missing") is None
    assert read_result(written(tmp_path, "garbage\n")) is None
    last = read_result(written(tmp_path, plain(completed=1), plain(completed=2)))
    assert last is not None
    assert last["completed"] == 2
