"""The recipe's sweep, with SGLang's own benchmark client, 0.5.2, over a proxy with simulated engines."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deploy.slurm.benchmark.cells import OK
from deploy.slurm.benchmark.parser import read_sweep
from tests.e2e.test_bench_serving import PYTHON, TOKENIZER, bench_serving
from tests.e2e.test_openai_sdk import proxy_process
from tests.support.engines import SimEngine, start_engine_process

__all__ = ["bench_serving"]

SWEEP = Path(__file__).resolve().parents[2] / "deploy" / "slurm" / "benchmark_xPyD.sh"
LIMIT_S = 400

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@asynccontextmanager
async def service() -> AsyncIterator[tuple[str, SimEngine]]:
    """A proxy's port, and the one decode behind it."""
    async with (
        start_engine_process("prefill") as prefill,
        start_engine_process("decode") as decode,
        proxy_process(
            *("--prefill", prefill.url, str(prefill.bootstrap_port), "--decode", decode.url),
            "--log-level",
            "error",
        ) as url,
    ):
        yield url.rsplit(":", 1)[1], decode


async def sweep(script: Path, folder: Path, port: str, *flags: str) -> tuple[int, str]:
    """Exit code and screen of a sweep; the settings as the recipe's users export them."""
    recipe = {
        "MODEL_NAME": "Qwen3-32B",
        "MODEL_PATH": str(TOKENIZER),
        "xP": "1",
        "yD": "1",
        "SLURM_JOB_ID": "9",
    }
    ours = {"LOG_PATH": str(folder), "BENCHMARK_PORT": port, "BENCHMARK_COMMAND": f"{PYTHON} {script}"}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HOME": str(folder)}
    process = await asyncio.create_subprocess_exec(
        *("bash", str(SWEEP), "--pause-s", "0", "--cooldown-s", "0", *flags),
        env={**os.environ, **recipe, **ours, **offline},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), LIMIT_S)
    assert process.returncode is not None
    return process.returncode, said.decode()


def log_in(folder: Path) -> Path:
    (log,) = (folder / "9").glob("*_CONCURRENCY.log")
    return log


@pytest.mark.parametrize("data_set", ["generated-shared-prefix", "random-ids"])
async def test_every_cell_of_a_sweep_succeeds_and_the_text_alone_gives_the_jsons_figures(
    bench_serving: Path, data_set: str, tmp_path: Path
) -> None:
    async with service() as (port, _):
        flags = ("--dataset", data_set, "--combinations", "64/32 128/16", "--concurrency", "4 16")
        code, said = await sweep(bench_serving, tmp_path, port, *flags)
    assert code == 0, said
    log = log_in(tmp_path)
    exact = read_sweep(log).runs
    assert [(run.cell.key, run.status) for run in exact] == [
        ((1, 64, 32, 4), OK),
        ((1, 64, 32, 16), OK),
        ((1, 128, 16, 4), OK),
        ((1, 128, 16, 16), OK),
    ]
    alone = tmp_path / "alone" / log.name
    alone.parent.mkdir()
    alone.write_bytes(log.read_bytes())
    for shown, run in zip(read_sweep(alone).runs, exact, strict=True):
        assert shown.figures["completed"] == run.cell.prompts
        for name, figure in shown.figures.items():
            if name in run.figures:
                assert figure == pytest.approx(run.figures[name], abs=0.0051), name


async def test_requests_that_the_service_loses_are_counted_and_end_the_sweep_with_1(
    bench_serving: Path, tmp_path: Path
) -> None:
    async with service() as (port, decode):
        await decode.fault("status", status=400, probability=0.3, seed=5)
        flags = ("--combinations", "64/16", "--concurrency", "16", "--retries", "4", "--warmup-prompts", "0")
        code, said = await sweep(bench_serving, tmp_path, port, *flags)
    (run,) = read_sweep(log_in(tmp_path)).runs
    assert code == 1, said
    assert run.outcome == OK, said
    assert run.failed, said
    assert run.failed + run.figures["completed"] == 32
    assert f"FAILED REQUESTS: {run.failed} of 32" in said


async def test_a_service_that_is_not_there_is_a_cell_without_a_result(
    bench_serving: Path, tmp_path: Path
) -> None:
    flags = ("--combinations", "64/16", "--concurrency", "4", "--retries", "0", "--warmup-prompts", "0")
    code, said = await sweep(bench_serving, tmp_path, "9", *flags)
    (run,) = read_sweep(log_in(tmp_path)).runs
    assert (code, run.outcome) == (1, "exit code 1"), said
    assert "NO RESULT: isl 64 osl 16 con 4 iter 1: exit code 1 (Failed to fetch model" in said
