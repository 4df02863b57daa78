"""The batch script with docker, for which a program stands in that runs the command on the host."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.slurm import standin
from tests.slurm.cluster import Cluster, Job, submit
from tests.slurm.scenes import CURL, READY_S, WITHIN_A_MINUTE_S, holds, nothing_is_left, recipe

NODES = 3

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture
def containers(tmp_path: Path) -> Path:
    """Where the stand-in keeps its records; one is of a container that is none of the job's."""
    folder = tmp_path / "containers"
    folder.mkdir()
    (folder / "somebody-elses@n2").write_text("pd-job=999 0")
    return folder


def docker(tmp_path: Path, containers: Path, weights: Path, **more: str) -> dict[str, str]:
    command = tmp_path / "bin" / "docker"
    command.parent.mkdir()
    command.write_text(f'#!/bin/bash\nexec {sys.executable} {standin.__file__} {containers} "$@"\n')
    command.chmod(0o755)
    own = {"PD_JOB_RUNTIME": "docker", "DOCKER_IMAGE_NAME": "sglang_disagg_pd_image"}
    path = {"PATH": f"{command.parent}:{os.environ['PATH']}"}
    return recipe(weights, **own, **path, xP="1", yD="1", SKIP_BENCHMARK="1", **more)


def theirs(containers: Path) -> list[str]:
    return sorted(path.name for path in containers.iterdir())


async def test_a_container_gets_all_it_needs_and_ends_by_itself_when_its_step_is_killed(
    slurm: Cluster, weights: Path, containers: Path, jobs: list[Job], tmp_path: Path
) -> None:
    job = submit(slurm, tmp_path, NODES, docker(tmp_path, containers, weights))
    jobs.append(job)
    await job.says("ready: 2 workers serve at http://10.77.0.11:30000", READY_S)
    assert '"text"' in slurm.on(1, "bash", "-c", CURL), job.told()
    names = [f"pd-{job.number}-node{rank}@n{rank + 1}" for rank in range(NODES)]
    assert theirs(containers) == sorted([*names, "somebody-elses@n2"])
    (client,) = slurm.pids(3, "standin.py .* run --rm")
    slurm.on(3, "kill", "-KILL", str(client))
    gone = "the job's step on this node is gone"
    await holds(lambda: gone in job.log("pd_sglang_bench_serving.sh_NODE2.log"), 30, job.told)
    await job.says("the service is not ready", 60)
    job.cancel()
    await job.ends(45)
    await nothing_is_left(slurm, weights)
    assert theirs(containers) == sorted([names[2], "somebody-elses@n2"])  # a real daemon forgets it (--rm)


async def test_an_image_that_one_node_lacks_ends_the_job_and_only_its_own_containers_are_removed(
    slurm: Cluster, weights: Path, containers: Path, jobs: list[Job], tmp_path: Path
) -> None:
    (containers / "no-image@n2").touch()
    job = submit(slurm, tmp_path, NODES, docker(tmp_path, containers, weights))
    jobs.append(job)
    await job.ends(WITHIN_A_MINUTE_S)
    assert (job.state, job.exit_code) == ("FAILED", 3), job.told()
    assert (
        "node 1 (n2, prefill): image sglang_disagg_pd_image is not on this node: docker pull it" in job.said
    )
    assert theirs(containers) == ["no-image@n2", "somebody-elses@n2"]
