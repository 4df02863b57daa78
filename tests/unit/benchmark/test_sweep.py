"""The sweep, with real processes: every call as the recipe makes it, every failure told as one."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from deploy.slurm.benchmark.parser import read_sweep
from tests.support.proxies import eventually

SLURM = Path(__file__).resolve().parents[3] / "deploy" / "slurm"
STUB = Path(__file__).with_name("bench_stub.py")
LIMIT_S = 50


class Sweeping:
    """One call of benchmark_xPyD.sh with a benchmark that follows a plan."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def plan(self, words: str) -> None:
        (self.folder / "plan").write_text(words)

    def command(self, *flags: str) -> list[str]:
        words = ["bash", str(SLURM / "benchmark_xPyD.sh"), "--command", f"{sys.executable} {STUB}"]
        return [*words, "--pause-s", "0", "--cooldown-s", "0", *flags]

    @property
    def environment(self) -> dict[str, str]:
        """As the recipe exports it."""
        recipe = {"MODEL_NAME": "Qwen3-32B", "xP": "1", "yD": "2", "SLURM_JOB_ID": "77"}
        sweep = {"BENCHMARK_COMBINATIONS": "1024/1024", "BENCHMARK_CONCURRENCY_LEVELS": "8 16"}
        ours = {"LOG_PATH": str(self.folder), "STUB": str(self.folder), "BENCHMARK_PYTHON": sys.executable}
        return {"PATH": os.environ["PATH"], **recipe, **sweep, **ours}

    def run(self, *flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*flags),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    @property
    def log(self) -> Path:
        (found,) = (self.folder / "77").glob("benchmark_77_*_xP1_yD2_Qwen3-32B_CONCURRENCY.log")
        return found

    def calls(self) -> list[dict[str, str]]:
        """The arguments of every call, by flag."""
        return [
            {flag: value for flag, value in pairwise(words) if flag.startswith("--")}
            for words in map(json.loads, (self.folder / "calls").read_text().splitlines())
        ]

    def statuses(self) -> list[str]:
        return [run.status for run in read_sweep(self.log).runs]


@pytest.fixture
def sweeping(tmp_path: Path) -> Sweeping:
    return Sweeping(tmp_path)


def test_a_sweep_without_a_failure_ends_with_0_and_leaves_log_json_and_csv(sweeping: Sweeping) -> None:
    sweeping.plan("ok")
    done = sweeping.run("--warmup-prompts", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[2/2] isl 1024 osl 1024 con 16 32 ok, 0 failed" in done.stdout
    assert "Total runs parsed: 2" in done.stdout
    runs = read_sweep(sweeping.log).runs
    assert [run.figures["mean_ttft_ms"] for run in runs] == [101.0625, 102.0625]  # the JSON's, not the text's
    assert [(run.cell.setup.model, run.cell.setup.xp_yd) for run in runs] == [("Qwen3-32B", "1p2d")] * 2
    with open(sweeping.log.with_suffix(".csv")) as file:
        assert [row["Status"] for row in csv.DictReader(file)] == ["ok", "ok"]


def test_each_call_is_the_recipes(sweeping: Sweeping) -> None:
    sweeping.plan("ok")
    sweeping.run("--warmup-prompts", "0", "--", "--extra", "last")
    first, second = sweeping.calls()
    assert (first["--max-concurrency"], first["--num-prompts"]) == ("8", "16")
    assert (second["--max-concurrency"], second["--num-prompts"]) == ("16", "32")
    assert second["--dataset-name"] == "generated-shared-prefix"
    assert (second["--gsp-question-len"], second["--gsp-output-len"]) == ("1024", "1024")
    assert second["--gsp-prompts-per-group"] == "32"
    assert (second["--host"], second["--port"], second["--backend"]) == ("127.0.0.1", "30000", "sglang")
    words = json.loads((sweeping.folder / "calls").read_text().splitlines()[1])
    assert "--pd-separated" in words
    assert words[-2:] == ["--extra", "last"]


def test_a_crashed_cell_is_tried_again_and_its_result_is_its_own(sweeping: Sweeping) -> None:
    sweeping.plan("ok crash ok")
    done = sweeping.run("--warmup-prompts", "0")
    assert done.returncode == 0, done.stdout
    runs = read_sweep(sweeping.log).runs
    assert [(run.cell.concurrency, run.cell.attempt) for run in runs] == [(8, 1), (16, 2)]
    assert runs[1].figures["mean_ttft_ms"] == 103.0625
    outcomes = [json.loads(line)["outcome"] for line in sweeping.log.with_suffix(".jsonl").open()]
    assert outcomes == ["ok", "exit code 1", "ok"]


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("crash", "exit code 1"),
        ("silent", "ended well, but wrote no result"),
    ],
)
def test_a_cell_that_gives_no_result_is_told_and_ends_the_sweep_with_1(
    sweeping: Sweeping, word: str, status: str
) -> None:
    sweeping.plan(f"{word} {word} ok")
    done = sweeping.run("--warmup-prompts", "0", "--retries", "1")
    assert done.returncode == 1
    assert sweeping.statuses() == [status, "ok"]
    assert f"NO RESULT: isl 1024 osl 1024 con 8 iter 1: {status}" in done.stdout
    assert all(line.startswith("[") for line in sweeping.log.read_text().splitlines() if "isl 1024" in line)


def test_failed_requests_are_shown_not_retried_and_end_the_sweep_with_1(sweeping: Sweeping) -> None:
    sweeping.plan("lose=3 ok")
    done = sweeping.run("--warmup-prompts", "0")
    assert done.returncode == 1
    assert len(sweeping.calls()) == 2
    assert "FAILED REQUESTS: 3 of 48, in 1 of 2 runs" in done.stdout
    assert sweeping.statuses() == ["3 FAILED", "ok"]


def test_a_sweep_told_to_fail_fast_ends_at_the_first_cell_without_a_result(sweeping: Sweeping) -> None:
    sweeping.plan("crash")
    assert sweeping.run("--warmup-prompts", "0", "--retries", "0", "--fail-fast").returncode == 1
    assert len(sweeping.calls()) == 1


def test_a_benchmark_that_hangs_is_ended_and_the_next_cell_measured(sweeping: Sweeping) -> None:
    sweeping.plan("stubborn ok")
    done = sweeping.run("--warmup-prompts", "0", "--retries", "0", "--cell-limit-s", "8")
    assert done.returncode == 1
    assert sweeping.statuses() == ["timed out after 8s", "ok"]
    assert not alive(int((sweeping.folder / "hangs").read_text()))


def test_a_warm_up_leaves_nothing_in_the_sweeps_log_and_asks_other_prompts(sweeping: Sweeping) -> None:
    sweeping.plan("ok")
    assert sweeping.run().returncode == 0
    warm_up, *cells = sweeping.calls()
    assert (warm_up["--dataset-name"], warm_up["--random-input-len"]) == ("random-ids", "1024")
    assert int(warm_up["--random-output-len"]) <= 32
    assert "--seed" in warm_up
    assert len(cells) == 2
    assert "call 1:" not in sweeping.log.read_text()
    assert "call 1:" in sweeping.log.with_name(sweeping.log.name.replace("CONCURRENCY", "WARMUP")).read_text()


def test_a_failed_warm_up_is_told_and_the_cells_are_measured(sweeping: Sweeping) -> None:
    sweeping.plan("crash ok")
    done = sweeping.run()
    assert done.returncode == 0
    assert "warm-up failed: exit code 1" in done.stdout


def test_rounds_are_told_apart(sweeping: Sweeping) -> None:
    sweeping.plan("ok")
    sweeping.run("--warmup-prompts", "0", "--iterations", "2")
    keys = [run.cell.key for run in read_sweep(sweeping.log).runs]
    assert keys == [(1, 1024, 1024, 8), (1, 1024, 1024, 16), (2, 1024, 1024, 8), (2, 1024, 1024, 16)]


async def test_sigterm_ends_a_sweep_and_keeps_its_results_and_an_ignored_sighup_does_not(
    sweeping: Sweeping,
) -> None:
    sweeping.plan("ok hang")
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'trap "" HUP; exec "$@"', "nohup", *sweeping.command("--warmup-prompts", "0")),
        env=sweeping.environment,
        stdout=asyncio.subprocess.PIPE,
    )
    hangs = sweeping.folder / "hangs"
    try:
        await eventually(lambda: hangs.exists() and hangs.read_text() != "", 30)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        said, _ = await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert b"stopped by SIGTERM after 1 of 2 cells" in said
    assert sweeping.statuses() == ["ok", "stopped"]
    assert not alive(int(hangs.read_text()))


def test_a_benchmark_that_cannot_be_started_is_a_failure_that_names_it(sweeping: Sweeping) -> None:
    done = sweeping.run("--warmup-prompts", "0", "--retries", "0", "--command", "/nowhere/bench")
    assert done.returncode == 1
    assert "cannot start /nowhere/bench: No such file or directory" in done.stdout


def test_a_log_that_cannot_be_written_is_told(sweeping: Sweeping) -> None:
    (sweeping.folder / "file").write_text("")
    done = sweeping.run("--log-path", str(sweeping.folder / "file"))
    assert done.returncode == 1
    assert "cannot write" in done.stderr


def test_a_dry_run_prints_the_commands_and_runs_none(sweeping: Sweeping) -> None:
    done = sweeping.run("--dry-run")
    assert done.returncode == 0
    assert done.stdout.count("--max-concurrency") == 2
    assert not (sweeping.folder / "77").exists()


def alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True
