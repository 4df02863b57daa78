"""The plan as it is printed, against golden files; UPDATE_GOLDEN=1 writes them anew."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import msgspec
import pytest

from deploy.slurm.job import services
from deploy.slurm.job.layout import Place
from deploy.slurm.job.plan import JobPlan, NodePlan, make_plan
from deploy.slurm.job.settings import JobSettings
from deploy.slurm.job.steps import of_cleaning, of_look
from proxy.settings_flags import read as read_flags
from proxy.settings_loading import load
from tests.unit.slurm.environs import placed, settings
from workers.settings import read_settings as read_worker

GOLDEN = Path(__file__).with_name("golden")
ROOT = Path(__file__).resolve().parents[3]
PASSED = ("MODEL_NAME", "PD_JOB_SECRET", "xP")
CASES = {
    "docker_separate": {},
    "docker_colocated_serve": {"PD_JOB_LAYOUT": "colocated", "SKIP_BENCHMARK": "1"},
    "docker_asked": {
        "IB_DEVICES": "mlx5_0,mlx5_2",
        "KV_TRANSFER_BACKEND": "nixl",
        "MODEL_PATH": "/nvme/Qwen3-32B",
        "PD_JOB_ALLOW_TCP": "1",
        "PD_JOB_DECODE_ARGS": "--tp-size 4 -- --mem-fraction-static 0.8",
        "PD_JOB_DEVICES": "/dev/kfd",
        "PD_JOB_PROXY_ARGS": "--policy round_robin",
        "PD_JOB_RUNTIME_ARGS": "--privileged",
    },
    "podman_separate": {"PD_JOB_RUNTIME": "podman", "xP": "1", "yD": "1"},
    "enroot_separate": {"PD_JOB_RUNTIME": "enroot", "xP": "1", "yD": "1"},
    "none_simulated_three_etcds": {
        "DOCKER_IMAGE_NAME": "",
        "PD_JOB_RUNTIME": "none",
        "PD_JOB_ENGINE": "simulated",
        "PD_JOB_ETCD_MEMBERS": "3",
    },
}


def planned(of: JobSettings) -> tuple[tuple[Place, ...], JobPlan]:
    own = placed(of)
    addresses = [f"10.0.0.{place.rank + 1}" for place in own]
    return own, make_plan(of, own, addresses, ["/shared/models/Qwen3-32B"] * len(own), PASSED)


def portable(text: str) -> str:
    """The same on every machine."""
    for found, name in ((services.etcd_binary() or "etcd", "etcd"), (sys.executable, "PYTHON")):
        text = text.replace(found, name)
    return text.replace(str(ROOT), "ROOT")


@pytest.mark.parametrize("case", CASES)
def test_a_dry_run_prints_every_nodes_role_address_commands_and_logs(case: str) -> None:
    of = settings(**CASES[case])
    own, plan = planned(of)
    told = plan.render() + "\nlook   " + shlex.join(of_look(of, own[0], PASSED))
    told = portable(told + "\nclean  " + shlex.join(of_cleaning(of, own)) + "\n")
    golden = GOLDEN / f"{case}.txt"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        golden.write_text(told)
    assert told == golden.read_text()


def test_a_nodes_plan_survives_its_command_line() -> None:
    _, plan = planned(settings(PD_JOB_RUNTIME="none"))
    for node, step in zip(plan.nodes, plan.steps, strict=True):
        assert msgspec.json.decode(shlex.split(shlex.join(step))[-1], type=NodePlan) == node


@pytest.mark.parametrize("runtime", ["docker", "podman"])
def test_a_step_is_one_line_and_bash_understands_it(runtime: str, tmp_path: Path) -> None:
    _, plan = planned(settings(PD_JOB_RUNTIME=runtime))
    for step in plan.steps:
        assert "\n" not in shlex.join(step)
        script = tmp_path / "step"
        script.write_text(step[step.index("-c") + 1])
        assert os.system(f"bash -n {script}") == 0


@pytest.mark.parametrize("case", CASES)
def test_least_privilege_no_mount_of_a_home_and_no_secret_in_any_command(case: str) -> None:
    _, plan = planned(settings(**CASES[case]))
    told = plan.render() + "".join(shlex.join(step) for step in plan.steps)
    assert ("--privileged" in told) == (case == "docker_asked")
    for word in (".ssh", "$HOME", "/var/run/docker.sock", "--pid", "--ipc=host", "--etcd-password"):
        assert word not in told


@pytest.mark.parametrize("case", CASES)
def test_workers_and_proxy_understand_what_the_plan_gives_them(case: str) -> None:
    of = settings(**CASES[case])
    _, plan = planned(of)
    for node in plan.nodes:
        if node.proxy is not None:
            words = node.proxy.argv[node.proxy.argv.index("proxy") + 1 :]
            read = load(read_flags(words), {"PD_DISCOVERY_PASSWORD": "x"}).settings
            assert (read.server.port, read.discovery.etcd_endpoints) == (30000, node.registry)
        if node.worker is not None:
            words = node.worker.argv[services.WORKER_WORDS :]
            worker = read_worker(list(words))
            assert (worker.role.value, worker.model) == (node.worker.name, "Qwen3-32B")
            assert worker.etcd_endpoints == node.registry
            assert node.address in (worker.host, worker.advertise_host)
            if of.engine == "sglang":
                log = f"{worker.log_dir}/{worker.log_name}.log"
                assert log == f"/shared/logs/77/{node.worker.name}_NODE{node.rank}.log"
                assert str(worker.launch().model_path) == "/shared/models/Qwen3-32B"


def test_in_benchmark_mode_the_tokenizer_is_the_models_and_a_users_own_wins() -> None:
    _, plan = planned(settings())
    assert plan.nodes[0].sweep
    assert plan.nodes[0].sweep.env["BENCHMARK_TOKENIZER"] == "/shared/models/Qwen3-32B"
    _, plan = planned(settings(BENCHMARK_TOKENIZER="/own"))
    assert plan.nodes[0].sweep
    assert "BENCHMARK_TOKENIZER" not in plan.nodes[0].sweep.env


def test_only_rank_0_has_proxy_and_benchmark_and_none_in_serve_mode() -> None:
    _, plan = planned(settings())
    assert [(node.proxy is None, node.sweep is None) for node in plan.nodes] == [(False, False)] + [
        (True, True)
    ] * 4
    _, plan = planned(settings(SKIP_BENCHMARK="1"))
    assert all(node.sweep is None for node in plan.nodes)


def test_an_ipv6_address_is_bracketed_in_urls() -> None:
    of = settings()
    own = placed(of)
    plan = make_plan(of, own, [f"fd00::{place.rank + 1}" for place in own], [None] * 5, PASSED)
    assert plan.nodes[0].url == "http://[fd00::1]:30000"
    assert plan.nodes[1].registry == ("http://[fd00::1]:2379",)
