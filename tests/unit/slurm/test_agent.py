"""Two agents on addresses of the loopback, as on two nodes, with a real etcd and simulated engines."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from deploy.slurm.job.layout import places
from deploy.slurm.job.plan import make_plan
from deploy.slurm.job.settings import read_settings
from tests.support.proxies import eventually
from tests.unit.slurm.test_look import ports

ROOT = Path(__file__).resolve().parents[3]
LIMIT_S = 50.0

pytestmark = pytest.mark.timeout(120)


class Fleet:
    """Two nodes: proxy and prefill, decode."""

    def __init__(self, folder: Path, agents: list[asyncio.subprocess.Process]) -> None:
        self._folder = folder
        self.agents = agents

    def log(self, rank: int) -> str:
        path = self._folder / "1" / f"pd_sglang_bench_serving.sh_NODE{rank}.log"
        return path.read_text() if path.exists() else ""

    def left(self) -> list[Path]:
        """Folders of the nodes' own."""
        return list(self._folder.glob("pd-job-*"))

    async def says(self, text: str, rank: int = 0) -> None:
        await eventually(lambda: text in self.log(rank), LIMIT_S, lambda: self.log(0) + self.log(1))

    async def codes(self) -> list[int | None]:
        async with asyncio.timeout(LIMIT_S):
            for agent in self.agents:
                await agent.wait()
        return [agent.returncode for agent in self.agents]


@asynccontextmanager
async def fleet(folder: Path, **more: str) -> AsyncIterator[Fleet]:
    environ = {
        "LOG_PATH": str(folder),
        "SLURM_JOB_ID": "1",
        "MODEL_NAME": "Qwen3-32B",
        "MODEL_DIR": "/models",
        "PD_JOB_RUNTIME": "none",
        "PD_JOB_LAYOUT": "colocated",
        "PD_JOB_ENGINE": "simulated",
        "PD_WORKER_REGISTRY_TTL_S": "3",
        **ports(),
        **more,
    }
    settings = read_settings(environ)
    addresses = ["127.0.0.2", "127.0.0.3"]
    plan = make_plan(settings, places(settings, ["n1", "n2"]), addresses, [None, None], ())
    settings.logs.mkdir()
    agents: list[asyncio.subprocess.Process] = []
    try:
        for node in plan.nodes:
            words = (sys.executable, "-m", "deploy.slurm.job", "node", msgspec.json.encode(node).decode())
            own = os.environ | environ | {"PD_JOB_SECRET": "made for this test", "TMPDIR": str(folder)}
            agents.append(
                await asyncio.create_subprocess_exec(
                    *words, cwd=ROOT, env=own, stdout=asyncio.subprocess.DEVNULL
                )
            )
        yield Fleet(folder, agents)
    finally:
        for agent in agents:
            if agent.returncode is None:
                agent.kill()
            await agent.wait()


async def test_the_service_comes_up_and_rank_0s_end_is_everybodys_with_its_reason(tmp_path: Path) -> None:
    async with fleet(tmp_path, SKIP_BENCHMARK="1") as nodes:
        await nodes.says("ready: 2 workers serve at http://127.0.0.2:")
        nodes.agents[0].send_signal(signal.SIGTERM)
        assert await nodes.codes() == [143, 143]
        for rank in (0, 1):
            assert "ended with 143: SIGTERM: the job was ended from outside" in nodes.log(rank)
        assert nodes.left() == []


async def test_a_worker_that_cannot_start_ends_the_job_and_every_node_says_why(tmp_path: Path) -> None:
    async with fleet(tmp_path, PD_JOB_DECODE_ARGS="--no-such-flag") as nodes:
        assert await nodes.codes() == [1, 1]
        for rank in (0, 1):
            assert "ended with 1: node 1 (n2, decode): decode ended with exit code 2" in nodes.log(rank)
            assert "unrecognized arguments: --no-such-flag" in nodes.log(rank)


async def test_the_jobs_exit_code_is_the_sweeps(tmp_path: Path) -> None:
    sweep = {"BENCHMARK_COMMAND": "false", "BENCHMARK_POINT_RETRIES": "0", "BENCHMARK_TOKENIZER": "/none"}
    cells = {"BENCHMARK_COMBINATIONS": "64/32", "BENCHMARK_CONCURRENCY_LEVELS": "4"}
    async with fleet(tmp_path, **sweep, **cells) as nodes:
        assert await nodes.codes() == [1, 1]
        assert "NO RESULT: isl 64 osl 32 con 4" in nodes.log(0)
        assert "ended with 1: the benchmark is over: it ended with 1" in nodes.log(1)


async def test_a_worker_lost_later_does_not_end_the_service(tmp_path: Path) -> None:
    async with fleet(tmp_path, SKIP_BENCHMARK="1") as nodes:
        await nodes.says("ready: 2 workers serve")
        nodes.agents[1].kill()  # with its node: nothing is told
        await nodes.says("the service is not ready")
        assert nodes.agents[0].returncode is None
