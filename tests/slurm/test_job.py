"""The batch script itself, runtime none, 2P2D with simulated engines and a real etcd, on a real Slurm."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.e2e.test_bench_serving import bench_serving
from tests.slurm.cluster import SCRIPT, Cluster, Job, submit
from tests.slurm.scenes import (
    NODES,
    READY_S,
    WITHIN_A_MINUTE_S,
    answers,
    holds,
    in_flight,
    nothing_is_left,
    recipe,
    sweep,
)

__all__ = ["bench_serving"]

READY = "ready: 4 workers serve at http://10.77.0.11:30000"
PARSER = SCRIPT.parent / "benchmark_parser.py"

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


async def test_serve_mode_answers_the_recipes_curl_on_the_proxys_node_and_scancel_leaves_nothing(
    slurm: Cluster, weights: Path, jobs: list[Job], tmp_path: Path
) -> None:
    job = submit(slurm, tmp_path, NODES, recipe(weights, SKIP_BENCHMARK="1"))
    jobs.append(job)
    await job.says(READY, READY_S)
    assert answers(slurm), job.told()
    logs = {path.name for path in job.logs.iterdir()}
    main_logs = {f"pd_sglang_bench_serving.sh_NODE{rank}.log" for rank in range(NODES)}
    own = {"etcd_NODE0.log", "proxy_NODE0.log", "prefill_NODE1.log", "prefill_NODE2.log"}
    assert logs == main_logs | own | {"decode_NODE3.log", "decode_NODE4.log"}
    job.cancel()
    await job.ends(45)
    assert job.state == "CANCELLED"
    await nothing_is_left(slurm, weights)
    for rank in range(NODES):
        assert "ended with 143" in job.log(f"pd_sglang_bench_serving.sh_NODE{rank}.log"), job.told()


async def test_benchmark_mode_runs_bench_serving_and_prints_the_parsers_table(
    slurm: Cluster, weights: Path, jobs: list[Job], tmp_path: Path, bench_serving: Path
) -> None:
    cells = {"BENCHMARK_COMBINATIONS": "64/32", "BENCHMARK_CONCURRENCY_LEVELS": "4 16"}
    job = submit(slurm, tmp_path, NODES, sweep(bench_serving, weights, **cells))
    jobs.append(job)
    await job.ends(180)
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.told()
    assert "Total runs parsed: 2" in job.said, job.told()
    (log,) = job.logs.glob(f"benchmark_{job.number}_*_xP2_yD2_Qwen3-32B_CONCURRENCY.log")
    table = slurm.run("python3", str(PARSER), str(log), "--compact")
    rows = [line for line in table.splitlines() if line.startswith("Qwen3-32B")]
    assert [row.split()[1:6] for row in rows] == [
        ["2p2d", "64", "32", "4", "16"],
        ["2p2d", "64", "32", "16", "32"],
    ]
    assert all(row in job.said for row in rows), job.told()
    await nothing_is_left(slurm, weights)


async def test_a_decode_node_cut_off_in_mid_sweep_costs_no_request_and_the_job_lives(
    slurm: Cluster, weights: Path, jobs: list[Job], tmp_path: Path, bench_serving: Path
) -> None:
    cells = {"BENCHMARK_COMBINATIONS": "64/256", "BENCHMARK_CONCURRENCY_LEVELS": "16 32"}
    slow = {"PD_JOB_DECODE_ARGS": "--decode-ms-per-token 30", "PD_JOB_ORPHANED_S": "20"}
    job = submit(slurm, tmp_path, NODES, sweep(bench_serving, weights, **cells, **slow))
    jobs.append(job)
    await job.says(r"\[1/2\] isl 64 osl 256 con 16 \.\.\.", READY_S)
    await holds(lambda: in_flight(slurm, "decode-10.77.0.15-30000") > 2, 60, job.told)
    slurm.cut_off(5)
    await job.ends(400)
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.told()
    assert "Total runs parsed: 2" in job.said, job.told()
    assert "FAILED REQUESTS" not in job.said, job.told()
    assert "3 of 4 workers serve" in job.said, job.told()
    await nothing_is_left(slurm, weights)  # not on the node that nobody could reach, either


async def test_a_killed_etcd_and_a_killed_proxy_are_started_again_and_find_the_workers(
    slurm: Cluster, weights: Path, jobs: list[Job], tmp_path: Path
) -> None:
    job = submit(slurm, tmp_path, NODES, recipe(weights, SKIP_BENCHMARK="1"))
    jobs.append(job)
    await job.says(READY, READY_S)
    for name, words in (("etcd", "etcd --name etcd-0"), ("proxy", "-m proxy --port")):
        (pid,) = [pid for pid in slurm.pids(1, words) if "srun" not in slurm.command_of(pid)]
        slurm.on(1, "kill", "-KILL", str(pid))
        await job.says(f"{name} was ended by SIGKILL", 30)
    await job.says("4 of 4 workers serve", 60)
    assert answers(slurm), job.told()
    registered = [slurm.run("grep", "-c", "registry: listed", str(job.logs / "proxy_NODE0.log")).strip()]
    assert registered == ["2"], job.told()


async def test_a_colocated_job_needs_a_node_less_and_three_etcds_outlive_one(
    slurm: Cluster, weights: Path, jobs: list[Job], tmp_path: Path
) -> None:
    more = {"PD_JOB_LAYOUT": "colocated", "PD_JOB_ETCD_MEMBERS": "3", "PD_JOB_SUBNET": "10.77.0.0/24"}
    job = submit(slurm, tmp_path, NODES - 1, recipe(weights, SKIP_BENCHMARK="1", **more))
    jobs.append(job)
    await job.says(READY, READY_S)
    assert "http://10.77.0.11:30001" in slurm.on(1, "curl", "-s", "http://127.0.0.1:30000/workers")
    slurm.cut_off(2)
    await job.says("3 of 4 workers serve", 60)
    assert answers(slurm), job.told()
    slurm.mend_network()
    await job.says("4 of 4 workers serve", 60)


async def test_an_unknown_model_ends_the_job_and_lists_the_known_ones(
    slurm: Cluster, weights: Path, jobs: list[Job], tmp_path: Path
) -> None:
    job = submit(slurm, tmp_path, NODES, recipe(weights, MODEL_NAME="Qwen3-23B"))
    jobs.append(job)
    await job.ends(WITHIN_A_MINUTE_S)
    assert (job.state, job.exit_code) == ("FAILED", 2), job.told()
    assert "MODEL_NAME: 'Qwen3-23B' is not known. Did you mean Qwen3-32B? Known: DeepSeek-V3," in job.said


async def test_weights_missing_on_one_node_end_the_job_and_the_node_is_named(
    slurm: Cluster, weights: Path, jobs: list[Job], tmp_path: Path
) -> None:
    slurm.on(4, "mount", "-t", "tmpfs", "none", str(weights))
    try:
        job = submit(slurm, tmp_path, NODES, recipe(weights))
        jobs.append(job)
        await job.ends(WITHIN_A_MINUTE_S)
    finally:
        slurm.on(4, "umount", str(weights))
    assert (job.state, job.exit_code) == ("FAILED", 3), job.told()
    assert "node 3 (n4, decode): weights: no weights of Qwen3-32B (looked for config.json in" in job.said
    assert job.said.count("no weights of") == 1, job.told()
    assert not list(job.logs.glob("etcd*")), "nothing was started"


async def test_other_weights_on_one_node_end_the_job(
    slurm: Cluster, weights: Path, jobs: list[Job], tmp_path: Path
) -> None:
    other = tmp_path / "other" / "Qwen3-32B"
    shutil.copytree(weights / "Qwen3-32B", other)
    (other / "config.json").write_text('{"revision": "another"}')
    slurm.on(3, "mount", "--bind", str(other.parent), str(weights))
    try:
        job = submit(slurm, tmp_path, NODES, recipe(weights))
        jobs.append(job)
        await job.ends(WITHIN_A_MINUTE_S)
    finally:
        slurm.on(3, "umount", str(weights))
    assert (job.state, job.exit_code) == ("FAILED", 3), job.told()
    assert "weights: not the same on all nodes: sha256:" in job.said, job.told()


async def test_a_taken_port_ends_the_job_and_the_node_is_named(
    slurm: Cluster, weights: Path, jobs: list[Job], tmp_path: Path
) -> None:
    listen = "import socket; s = socket.create_server(('', 30000)); print('on', flush=True); input()"
    with slurm.background(2, "python3", "-c", listen) as listener:
        assert listener.stdout
        assert listener.stdout.readline() == "on\n"
        job = submit(slurm, tmp_path, NODES, recipe(weights))
        jobs.append(job)
        await job.ends(WITHIN_A_MINUTE_S)
    assert (job.state, job.exit_code) == ("FAILED", 3), job.told()
    assert "node 1 (n2, prefill): port 30000 of the prefill: Address already in use" in job.said


async def test_a_worker_that_does_not_start_ends_the_job_and_every_node_prints_why(
    slurm: Cluster, weights: Path, jobs: list[Job], tmp_path: Path
) -> None:
    job = submit(slurm, tmp_path, NODES, recipe(weights, PD_JOB_DECODE_ARGS="--no-such-flag"))
    jobs.append(job)
    await job.ends(WITHIN_A_MINUTE_S)
    assert (job.state, job.exit_code) == ("FAILED", 1), job.told()
    for rank in range(NODES):
        log = job.log(f"pd_sglang_bench_serving.sh_NODE{rank}.log")
        assert "decode): decode ended with exit code 2" in log, job.told()
        assert "unrecognized arguments: --no-such-flag" in log, job.told()
    await nothing_is_left(slurm, weights)


async def test_inside_an_salloc_the_same_script_runs_and_its_exit_code_is_the_sweeps(
    slurm: Cluster, weights: Path, tmp_path: Path
) -> None:
    environ = recipe(
        weights,
        BENCHMARK_COMMAND="false",
        BENCHMARK_POINT_RETRIES="0",
        BENCHMARK_COMBINATIONS="64/32",
        BENCHMARK_CONCURRENCY_LEVELS="4",
    )
    words = ("salloc", "--no-kill", "-N", str(NODES), "-n", str(NODES), "bash", str(SCRIPT))
    said = slurm.run("bash", "-c", '"$@" 2>&1; echo "code $?"', "-", *words, environ=environ, cwd=tmp_path)
    assert said.endswith("code 1\n"), said
    assert "NO RESULT: isl 64 osl 32 con 4 iter 1: exit code 1" in said
    await nothing_is_left(slurm, weights)
