"""What the tests of the Slurm job share: users' settings, what a job left, patience with a deadline."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from tests.e2e.test_bench_serving import PYTHON, TOKENIZER
from tests.slurm.cluster import Cluster

NODES = 5
READY_S = 120
WITHIN_A_MINUTE_S = 60
CURL = (
    'curl -sS --max-time 20 -X POST http://127.0.0.1:30000/generate -H "Content-Type: application/json" '
    """-d '{"text": "Let me tell you a story ", "sampling_params": {"temperature": 0.3}}'"""
)


def recipe(weights: Path, **more: str) -> dict[str, str]:
    """What the recipe's user exports, and that there is neither a container nor a GPU."""
    own = {"PD_JOB_RUNTIME": "none", "PD_JOB_ENGINE": "simulated", "TMPDIR": str(scratch(weights))}
    return {"xP": "2", "yD": "2", "MODEL_NAME": "Qwen3-32B", "MODEL_DIR": str(weights), **own, **more}


def sweep(script: Path, weights: Path, **more: str) -> dict[str, str]:
    """The same for the benchmark, with SGLang's own client and a tokenizer in the model's folder."""
    shutil.copytree(TOKENIZER, weights / "Qwen3-32B", dirs_exist_ok=True)
    benchmark = {
        "BENCHMARK_COMMAND": f"{PYTHON} {script}",
        "BENCHMARK_BETWEEN_RUN_SECONDS": "0",
        "BENCHMARK_POINT_RETRIES": "0",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
    return recipe(weights, **benchmark, **more)


def scratch(weights: Path) -> Path:
    """Where a test's job makes its temporary files, on all nodes."""
    folder = weights.parent / "scratch"
    folder.mkdir(exist_ok=True)
    return folder


def left_on_any_node(slurm: Cluster, weights: Path) -> dict[int, list[str]]:
    """Processes and temporary files of a test's job that is over."""
    found = {node: slurm.processes(node) for node in range(1, NODES + 1)}
    found[0] = [str(path) for path in scratch(weights).iterdir()]
    return {node: lines for node, lines in found.items() if lines}


async def nothing_is_left(slurm: Cluster, weights: Path) -> None:
    await holds(
        lambda: left_on_any_node(slurm, weights) == {}, 40, lambda: str(left_on_any_node(slurm, weights))
    )


async def holds(condition: Callable[[], bool], limit_s: float, told: Callable[[], str]) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, told()
        await asyncio.sleep(0.3)


def answers(slurm: Cluster) -> bool:
    """Whether the recipe's curl is answered on the proxy's node."""
    said = slurm.on(1, "bash", "-c", CURL, check=False)
    return bool(said) and bool(json.loads(said).get("text"))


def in_flight(slurm: Cluster, worker: str) -> int:
    """How many requests the proxy has on a worker."""
    told = slurm.on(1, "curl", "-s", "--max-time", "5", "http://127.0.0.1:30000/workers", check=False)
    workers = json.loads(told)["workers"] if told else []
    return sum(int(each["in_flight"]) for each in workers if each["id"] == worker)
