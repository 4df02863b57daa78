"""The batch script with `--engine sglang`: a real pd-worker, under which a program stands in for SGLang."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, Job, submit
from tests.slurm.scenes import CURL, READY_S, WITHIN_A_MINUTE_S, nothing_is_left, recipe
from tests.support.workers import make_engine_python

NODES = 3

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def with_sglang(weights: Path, folder: Path, **more: str) -> dict[str, str]:
    python = make_engine_python(folder / "engine")
    own = {"PD_JOB_ENGINE": "sglang", "PD_JOB_ENGINE_PYTHON": str(python)}
    return recipe(weights, SKIP_BENCHMARK="1", **own, **more, xP="1", yD="1")


async def test_without_gpus_or_a_fabric_nothing_is_started(
    slurm: Cluster, weights: Path, jobs: list[Job], tmp_path: Path
) -> None:
    job = submit(slurm, tmp_path, NODES, with_sglang(weights, tmp_path))
    jobs.append(job)
    await job.ends(WITHIN_A_MINUTE_S)
    assert (job.state, job.exit_code) == ("FAILED", 3), job.told()
    for part in ("node 1 (n2, prefill)", "node 2 (n3, decode)"):
        assert f"{part}: gpu: no GPU is seen: " in job.said, job.told()
        assert f"{part}: rdma: no device: check ibstat" in job.said, job.told()
    assert not list(job.logs.glob("etcd*")), "nothing was started"


async def test_an_engine_writes_the_recipes_log_is_started_again_and_leaves_nothing(
    slurm: Cluster, weights: Path, jobs: list[Job], tmp_path: Path
) -> None:
    asked = {"PD_JOB_PREFLIGHT": "warn", "PD_JOB_ALLOW_TCP": "1", "IB_DEVICES": "none"}
    job = submit(slurm, tmp_path, NODES, with_sglang(weights, tmp_path, **asked))
    jobs.append(job)
    await job.says("ready: 2 workers serve", READY_S)
    assert "gpu: no GPU is seen: give the container the GPUs, or start on a GPU node, not heeded" in job.said
    assert '"text"' in slurm.on(1, "bash", "-c", CURL), job.told()
    assert job.log("prefill_NODE1.log"), job.told()
    main_log = "pd_sglang_bench_serving.sh_NODE2.log"
    assert "pd-worker ready role=decode url=http://10.77.0.13:30000" in job.log(main_log), job.told()
    (engine, *_) = slurm.pids(3, "-m sglang.launch_server")
    slurm.on(3, "kill", "-KILL", str(engine))
    await job.says("the service is not ready", 60)
    await job.says("2 of 2 workers serve", 60)
    assert '"text"' in slurm.on(1, "bash", "-c", CURL), job.told()
    job.cancel()
    await job.ends(45)
    await nothing_is_left(slurm, weights)
