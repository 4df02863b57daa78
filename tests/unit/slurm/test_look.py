"""A node's look at itself: real files, real ports."""

from __future__ import annotations

import random
import socket
import sys
from pathlib import Path

import pytest

from deploy.slurm.job.look import Look, failures, look
from tests.unit.slurm.environs import placed, settings
from workers.doctor.node import why_not_listen


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "Qwen3-32B"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"w")
    return folder.parent


def ports() -> dict[str, str]:
    """Five free ones in a row, below those that the kernel gives to others meanwhile."""
    rng = random.Random()
    while True:
        first = rng.randrange(20000, 30000)
        if not any(why_not_listen("", first + offset) for offset in range(5)):
            names = ("PROXY", "WORKER", "BOOTSTRAP", "ETCD")
            return {f"PD_JOB_{name}_PORT": str(first + at) for at, name in enumerate(names)}


def seen(models: Path, rank: int, **more: str) -> Look:
    own = {"MODEL_DIR": str(models), "LOG_PATH": str(models.parent), "PD_JOB_ENGINE": "simulated"}
    of = settings(**(own | ports() | more))
    return look(of, placed(of)[rank], "127.0.0.1", {"PD_JOB_IMAGE_ID": "sha256:i"})


def test_a_node_where_all_is_well_says_what_must_be_equal_elsewhere(models: Path) -> None:
    found = seen(models, 1)
    assert failures(found) == []
    assert (found.node, found.address, found.image) == ("n2", "127.0.0.1", "sha256:i")
    assert found.weights == str(models / "Qwen3-32B")
    assert found.fingerprint == seen(models, 3).fingerprint
    (models / "Qwen3-32B" / "config.json").write_text('{"other": 1}')
    assert found.fingerprint != seen(models, 1).fingerprint


def test_weights_that_are_not_there_are_told_with_every_place(models: Path) -> None:
    (found,) = failures(seen(models, 1, MODEL_NAME="DeepSeek-V3", MODEL_PATH="/nowhere"))
    assert found.check == "weights"
    for place in ("/nowhere", "/nowhere/DeepSeek-V3", str(models / "DeepSeek-V3")):
        assert place in found.said


def test_weights_that_are_not_whole_are_told(models: Path) -> None:
    (models / "Qwen3-32B" / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "a.safetensors"}}'
    )
    (found,) = failures(seen(models, 1))
    assert "lacks a.safetensors" in found.said


def test_the_proxys_own_node_needs_weights_only_for_the_benchmarks_tokenizer(models: Path) -> None:
    assert [found.check for found in failures(seen(models, 0, MODEL_NAME="DeepSeek-V3"))] == ["weights"]
    for more in ({"SKIP_BENCHMARK": "1"}, {"BENCHMARK_TOKENIZER": "/tokenizer"}):
        assert failures(seen(models, 0, MODEL_NAME="DeepSeek-V3", **more)) == []


def test_a_taken_port_is_told_with_who_wants_it(models: Path) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        (found,) = failures(seen(models, 1, PD_JOB_WORKER_PORT=str(port)))
    assert (found.check, found.said) == (f"port {port} of the prefill", "Address already in use")


def test_logs_that_cannot_be_written_are_told(models: Path) -> None:
    file = models.parent / "file"
    file.touch()
    (found,) = failures(seen(models, 1, LOG_PATH=str(file / "logs")))
    assert found.check == "logs"


def test_for_a_real_engine_the_doctor_looks_too(models: Path) -> None:
    found = seen(models, 1, PD_JOB_ENGINE="sglang", PD_JOB_ENGINE_PYTHON=sys.executable)
    checks = {one.check for one in found.findings}
    assert {"nofile", "memlock", "shm", "gpu", "rdma", "sglang", "weights"} <= checks
    assert "sglang" in {one.check for one in failures(found)}, "our own environment has no SGLang"
    assert sum(one.check == "weights" for one in found.findings) == 1
