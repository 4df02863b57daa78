"""The batch script where there is no Slurm: what it refuses, what it prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.unit.slurm.environs import RECIPE

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "deploy" / "slurm" / "run_xPyD_models.slurm"
LIMIT_S = 40


def run(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Without a job, in a folder of its own, with a `docker` that shows what it is asked to run."""
    command = folder / "docker"
    command.write_text('#!/bin/bash\nprintf "%s\\n" docker "$@"\n')
    command.chmod(0o755)
    environ = {name: value for name, value in RECIPE.items() if name != "SLURM_JOB_ID"}
    environ |= {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PD_JOB_PYTHON": sys.executable,
        "HOME": "/nonexistent",
    }
    return subprocess.run(
        ["bash", str(SCRIPT), *words],
        cwd=folder,
        env=environ | more,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def test_outside_of_a_job_it_says_how_to_submit_it(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 2
    assert "this is no Slurm job: sbatch -N <nodes>" in done.stderr


def test_settings_are_no_arguments(tmp_path: Path) -> None:
    done = run(tmp_path, "Qwen3-32B")
    assert done.returncode == 2
    assert "the only argument is --dry-run" in done.stderr


def test_an_unknown_runtime_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    done = run(tmp_path, "--dry-run", PD_JOB_RUNTIME="lxc")
    assert done.returncode == 2
    assert "'lxc' is none of docker, podman, enroot, none" in done.stderr


def test_an_environment_that_is_not_there_is_an_error_that_says_how_to_make_it(tmp_path: Path) -> None:
    done = run(tmp_path, "--dry-run", PD_JOB_RUNTIME="none", PD_JOB_PYTHON="/nowhere/python")
    assert done.returncode == 2
    assert "PD_JOB_PYTHON: there is no /nowhere/python: is there a checkout in" in done.stderr


def test_a_dry_run_prints_the_plan_and_starts_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, "--dry-run", PD_JOB_RUNTIME="none")
    assert done.returncode == 0, done.stderr
    assert "job 0: Qwen3-32B, 2P2D, separate layout, runtime none" in done.stdout
    for part in ("0 (NODE0, proxy)", "1 (NODE1, prefill)", "4 (NODE4, decode) at ADDRESS_OF_NODE4"):
        assert f"node {part}" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docker"]


def test_a_relative_log_path_is_where_sbatch_was_called(tmp_path: Path) -> None:
    done = run(tmp_path, "--dry-run", PD_JOB_RUNTIME="none", LOG_PATH="mine")
    assert f"logs:     {tmp_path}/mine/0\n" in done.stdout


def test_the_planner_runs_in_the_image_without_network_and_secrets_go_by_name(tmp_path: Path) -> None:
    done = run(tmp_path, "--dry-run", PD_ROUTING_POLICY="random", NCCL_DEBUG="INFO", AWS_SECRET="x")
    words = done.stdout.splitlines()
    image = words.index("sglang_disagg_pd_image")
    assert words[image + 1 :] == ["/opt/pd/.venv/bin/python", "-I", "-m", "deploy.slurm.job", "show"]
    flags = words[:image]
    assert {"--network=none", "--pull=never", "--rm"} <= set(flags)
    names = {flag.removeprefix("--env=") for flag in flags if flag.startswith("--env=")}
    assert {"xP", "MODEL_NAME", "PD_JOB_SECRET", "PD_ROUTING_POLICY", "NCCL_DEBUG"} <= names
    assert not names & {"AWS_SECRET", "HOME", "PATH"}
    assert not any("=" in name for name in names), "a value stands in a process list"
