from __future__ import annotations

import json
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.discovery import record
from proxy.discovery.etcd import EtcdRules
from proxy.discovery.record import Keys
from proxy.roster import Role, Worker
from tests.support.etcd import start_etcd
from tests.unit.workers.nodes import Tree, launch, mi300x
from tests.unit.workers.test_facts import interpreter, model
from workers.doctor.checks import check
from workers.doctor.finding import Finding, Level, exit_code
from workers.doctor.node import Node, ask_registry, examine
from workers.doctor.report import main
from workers.fabric import Port, RdmaDevice
from workers.gpus import Gpus
from workers.weights import Weights


def node(**changes: Any) -> Node:
    """A node on which all is well."""
    facts = mi300x("0.5.23")
    well = Node(
        nofile=1_048_576,
        memlock_bytes=-1,
        shm_bytes=64 * 2**30,
        shm_free_bytes=64 * 2**30,
        device_nodes={"/dev/kfd": True, "/dev/dri": True, "/dev/infiniband": True},
        devices=facts.devices,
        gpus=facts.gpus,
        allow_tcp=False,
        name="node1",
        name_resolves_to=("10.0.0.1",),
        address="10.0.0.1",
        address_is_ours=True,
        ports={30000: None, 8998: None},
        imports={"sglang.launch_server": None, "mooncake.engine": None},
        engine_version="0.5.23",
        plan_error=None,
        facts=facts,
        other_fingerprints={"decode-10.0.0.2-30000": "sha256:00112233445566778899aabbccddeeff"},
    )
    return replace(well, **changes)


def test_a_node_on_which_all_is_well_has_no_complaint() -> None:
    findings = check(node())
    assert {finding.level for finding in findings} == {Level.OK}
    assert exit_code(findings) == 0


def roce(name: str, gid_index: int | None) -> RdmaDevice:
    return RdmaDevice(name, (Port(1, True, "Ethernet", 400.0, gid_index),), (), None)


DOWN = RdmaDevice("mlx5_0", (Port(1, False, "Ethernet", 400.0, None),), (), None)


@pytest.mark.parametrize(
    ("changes", "name", "level", "said"),
    [
        ({"nofile": 1024}, "nofile", Level.FAILURE, "1024"),
        ({"nofile": 20000}, "nofile", Level.WARNING, "20000"),
        ({"memlock_bytes": 65536}, "memlock", Level.FAILURE, "64 KiB"),
        ({"memlock_bytes": 65536, "devices": (), "allow_tcp": True}, "memlock", Level.WARNING, "64 KiB"),
        ({"shm_bytes": None}, "shm", Level.FAILURE, "no /dev/shm"),
        ({"shm_bytes": 64 * 2**20}, "shm", Level.FAILURE, "0.06 GiB"),
        ({"shm_free_bytes": 2**30}, "shm", Level.WARNING, "1.0 of it free"),
        ({"gpus": Gpus()}, "gpu", Level.FAILURE, "no GPU"),
        ({"gpus": replace(mi300x("0.5.23").gpus, driver=None)}, "gpu", Level.FAILURE, "no driver"),
        ({"gpus": Gpus((), ("gfx90a",), "amdgpu")}, "gpu", Level.WARNING, "gfx90a"),
        (
            {"device_nodes": {"/dev/dri": True, "/dev/infiniband": True}},
            "/dev/kfd",
            Level.FAILURE,
            "not there",
        ),
        ({"device_nodes": {"/dev/kfd": False}}, "/dev/kfd", Level.FAILURE, "permission"),
        ({"devices": ()}, "rdma", Level.FAILURE, "no device"),
        ({"devices": (), "allow_tcp": True}, "rdma", Level.WARNING, "no device"),
        ({"devices": (DOWN,)}, "rdma", Level.FAILURE, "none with an active port"),
        ({"devices": (roce("a", 3), roce("b", None))}, "gid", Level.FAILURE, "on b"),
        ({"devices": (roce("a", 3), roce("b", 1))}, "gid", Level.WARNING, "a 3, b 1"),
        ({"address": None}, "address", Level.FAILURE, "no address"),
        ({"address_is_ours": False}, "address", Level.FAILURE, "not of this node"),
        ({"address": "127.0.0.1"}, "address", Level.WARNING, "this node only"),
        ({"name_resolves_to": ()}, "host name", Level.FAILURE, "node1 does not resolve"),
        ({"ports": {30000: "Address already in use"}}, "port 30000", Level.FAILURE, "already in use"),
        ({"engine_version": None}, "sglang", Level.FAILURE, "not known"),
        (
            {"imports": {"mooncake.engine": "ImportError: libibverbs"}},
            "mooncake.engine",
            Level.FAILURE,
            "lib",
        ),
        ({"facts": mi300x("0.5.23", weights=None)}, "weights", Level.FAILURE, "/models/Qwen3-32B"),
        (
            {"facts": mi300x("0.5.23", weights=Weights(Path("/m"), "sha256:0", ("a.safetensors",)))},
            "weights",
            Level.FAILURE,
            "lacks a.safetensors",
        ),
        ({"other_fingerprints": {"w2": "sha256:1"}}, "same weights", Level.FAILURE, "w2 has others"),
        ({"registry_error": "etcd is away"}, "same weights", Level.WARNING, "etcd is away"),
        ({"plan_error": "tp_size: no"}, "plan", Level.FAILURE, "tp_size: no"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(
    changes: dict[str, Any], name: str, level: Level, said: str
) -> None:
    findings = check(node(**changes))
    found = [finding for finding in findings if finding.check == name and finding.level is level]
    assert len(found) == 1, findings
    assert said in found[0].said
    assert found[0].advice
    assert exit_code(findings) == int(any(finding.level is Level.FAILURE for finding in findings))
    if level is Level.FAILURE:
        assert exit_code(findings) == 1


def test_infiniband_needs_no_gid() -> None:
    device = RdmaDevice("mlx5_0", (Port(1, True, "InfiniBand", 400.0, 0),), (), None)
    assert not [finding for finding in check(node(devices=(device,))) if finding.check == "gid"]


def test_without_a_model_only_the_node_is_looked_at() -> None:
    names = {finding.check for finding in check(node(facts=None, other_fingerprints={}))}
    assert {"nofile", "rdma", "sglang"} <= names
    assert not {"weights", "same weights", "plan"} & names


def test_a_line_tells_the_level_the_check_and_the_advice() -> None:
    finding = Finding("shm", Level.FAILURE, "none", "mount it")
    assert finding.line() == "failure shm: none -> mount it"
    assert Finding("shm", Level.OK, "64 GiB").line() == "ok      shm: 64 GiB"


def test_a_real_node_is_examined_below_another_root(tmp_path: Path) -> None:
    python, environ = interpreter(tmp_path / "site", "0.5.23")
    (tmp_path / "site/sglang").mkdir()
    (tmp_path / "site/sglang/__init__.py").write_text("")
    (tmp_path / "site/sglang/launch_server.py").write_text("")
    tree = Tree(tmp_path)
    tree.gpu("0000:05:00.0")
    tree.kfd(1, 90402)
    tree.nic("mlx5_0", "0000:06:00.0")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kfd").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = launch(
            model=str(model(tmp_path / "weights")),
            engine_python=python,
            advertise_host="127.0.0.1",
            host="127.0.0.1",
            port=port,
        )
        found = examine(settings, environ, tmp_path)
    assert found.engine_version == "0.5.23"
    assert found.imports["sglang.launch_server"] is None
    assert "mooncake" in (found.imports["mooncake.engine"] or "")
    assert found.ports[port] is not None
    assert found.address_is_ours
    assert found.gpus.architectures == ("gfx942",)
    assert found.device_nodes == {"/dev/kfd": True}
    assert found.plan_error is None
    assert found.facts is not None
    assert found.facts.weights is not None


def test_why_no_plan_can_be_made_is_told(tmp_path: Path) -> None:
    settings = launch(model="nonsense", engine_version="0.5.23", engine_python=str(tmp_path / "none"))
    found = examine(settings, {}, tmp_path)
    assert "neither a folder nor a known model" in (found.plan_error or "")
    assert all("cannot run" in (reason or "") for reason in found.imports.values())


def test_the_command_prints_json_and_fails_if_a_check_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--engine-python", str(tmp_path / "none"), "--json", "--advertise-host", "127.0.0.1"]
    assert main(words, dict(os.environ)) == 1
    findings = json.loads(capsys.readouterr().out)
    assert {"check", "level", "said", "advice"} == set(findings[0])
    assert "failure" in {finding["level"] for finding in findings}


def test_a_wrong_setting_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tp-size", "0"], {}) == 2
    assert "tp_size" in capsys.readouterr().err


async def test_the_fingerprints_of_the_same_model_are_read_from_the_registry() -> None:
    async with start_etcd() as etcd:
        for worker_id, name, fingerprint in (
            ("w1", "m", "sha256:1"),
            ("w2", "m", None),
            ("w3", "other", "sha256:3"),
        ):
            worker = Worker(
                worker_id=worker_id,
                url="http://10.0.0.1:30000",
                role=Role.DECODE,
                model=name,
                weights_fingerprint=fingerprint,
            )
            etcd.put(Keys().worker(worker), record.write(worker))
        etcd.put("/pd/v1/workers/m/decode/w4", b"no record")
        found = await ask_registry(EtcdRules(endpoints=(etcd.url,)), "pd", "m")
    assert found == ({"w1": "sha256:1"}, None)


async def test_a_registry_that_does_not_answer_is_told_of() -> None:
    others, error = await ask_registry(EtcdRules(endpoints=("http://127.0.0.1:1",)), "pd", "m")
    assert others == {}
    assert error
