"""`python3 benchmark_parser.py LOG`, as users call it."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.slurm.benchmark.columns import COLUMNS
from deploy.slurm.benchmark.parser import main

SLURM = Path(__file__).resolve().parents[3] / "deploy" / "slurm"
LOGS = Path(__file__).parent / "logs"
DROPS = LOGS / "benchmark_101_20250917_101500_xP1_yD1_Qwen3-32B_CONCURRENCY.log"
OURS = ("sweeper.py", "sweep.py", "process.py", "files.py", "settings.py", "command.py")
"""The sweep's files: the parser's are the others."""
RECIPE = (
    *("Model", "xP_yD", "ISL", "OSL", "Concurrency", "Prompts"),
    *("Request_Throughput_req_s", "Input_Token_Throughput_tok_s"),
    *("Output_Token_Throughput_tok_s", "Total_Token_Throughput_tok_s"),
    *("Mean_E2E_ms", "Mean_TTFT_ms", "Mean_ITL_ms"),
)


def test_the_recipes_columns_come_first_and_in_its_order() -> None:
    assert tuple(column.name for column in COLUMNS[: len(RECIPE)]) == RECIPE
    assert [column.name for column in COLUMNS[len(RECIPE) :]][:2] == ["Successful", "Failed"]


def test_the_table_shows_every_failure_and_counts_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(DROPS)]) == 0
    said = capsys.readouterr().out
    assert "Total runs parsed: 5\n" in said
    assert "FAILED REQUESTS: 135 of 896, in 2 of 5 runs" in said
    assert "NO RESULT: isl 1024 osl 1024 con 128 iter 1: no result (ValueError: Warmup failed" in said
    row = next(line for line in said.splitlines() if " 1024           64 " in line)
    assert row.split()[5] == "128"
    assert row.endswith("7 FAILED")


def test_the_compact_table_is_narrower_and_still_shows_failures(capsys: pytest.CaptureFixture[str]) -> None:
    main([str(DROPS), "--compact"])
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines()[:9])) < 130
    assert "7 FAILED" in said


def test_csv_without_a_name_goes_to_benchmark_results_csv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(DROPS), "--no-screen", "--csv"]) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "benchmark_results.csv").read_text() == DROPS.with_suffix(".csv").read_text()


def test_no_screen_alone_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main([str(DROPS), "--no-screen"])
    assert refused.value.code == 2
    assert "--csv or --plot" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--csv", "--plot"])
def test_the_log_itself_is_never_overwritten(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(DROPS.read_bytes())
    with pytest.raises(SystemExit):
        main([str(log), flag, str(log)])
    assert "would be overwritten" in capsys.readouterr().err
    assert log.read_bytes() == DROPS.read_bytes()


def test_a_log_without_cells_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.log").write_text("nothing\n")
    assert main([str(tmp_path / "x.log")]) == 1
    assert "No benchmark results found" in capsys.readouterr().err


def test_a_missing_log_is_an_error_that_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "x.log")]) == 1
    assert "x.log: No such file or directory" in capsys.readouterr().err


def test_a_copy_runs_anywhere_without_a_package(tmp_path: Path) -> None:
    shutil.copy(SLURM / "benchmark_parser.py", tmp_path)
    shutil.copytree(
        SLURM / "benchmark", tmp_path / "benchmark", ignore=shutil.ignore_patterns(*OURS, "__pycache__")
    )
    done = _isolated(tmp_path / "benchmark_parser.py", str(DROPS), "--compact")
    assert done.returncode == 0, done.stderr
    assert "Total runs parsed: 5" in done.stdout


def test_the_script_alone_says_what_is_missing(tmp_path: Path) -> None:
    shutil.copy(SLURM / "benchmark_parser.py", tmp_path)
    done = _isolated(tmp_path / "benchmark_parser.py", str(DROPS))
    assert done.returncode == 1
    assert "copy both" in done.stderr


@pytest.mark.parametrize(
    "file", sorted(SLURM.glob("benchmark*.py")) + sorted((SLURM / "benchmark").glob("*.py"))
)
def test_the_code_is_python_38_and_needs_nothing_but_the_standard_library(file: Path) -> None:
    tree = ast.parse(file.read_text(), feature_version=(3, 8))
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names.append(node.module or "")
        roots = {name.partition(".")[0] for name in names}
        assert roots <= (sys.stdlib_module_names | ({"matplotlib"} if file.name == "plot.py" else set()))


def _isolated(*words: object) -> subprocess.CompletedProcess[str]:
    """Without site-packages."""
    command = [sys.executable, "-S", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
