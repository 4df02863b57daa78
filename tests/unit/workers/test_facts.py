"""What is found on a real node: its interpreter, its addresses, its files."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest

from tests.unit.workers.nodes import launch
from workers.errors import ConfigurationError
from workers.facts import ask_version, find_address, gather, interface_of, reached_at
from workers.weights import locate


def interpreter(folder: Path, version: str) -> tuple[str, dict[str, str]]:
    """This interpreter, seeing an SGLang of a version."""
    info = folder / f"sglang-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: sglang\nVersion: {version}\n")
    return sys.executable, {**os.environ, "PYTHONPATH": str(folder)}


def model(folder: Path, config: str = "{}", tensors: tuple[str, ...] = ("a.safetensors",)) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config)
    names = {f"layer.{at}": name for at, name in enumerate(tensors)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    for name in tensors:
        (folder / name).write_bytes(b"0")
    return folder


def test_the_version_is_that_of_the_engines_own_interpreter(tmp_path: Path) -> None:
    python, environ = interpreter(tmp_path, "0.5.2rc1")
    assert ask_version(python, environ) == "0.5.2rc1"


def test_an_interpreter_without_sglang_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match=r"engine_python: .* has no SGLang"):
        ask_version(sys.executable, {**os.environ, "PYTHONPATH": ""})


def test_an_interpreter_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"engine_python: cannot run .*none"):
        ask_version(str(tmp_path / "none"), os.environ)


def test_an_interpreter_that_does_not_answer_is_not_waited_for(tmp_path: Path) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    with pytest.raises(ConfigurationError, match="did not tell SGLang's version"):
        ask_version(str(slow), os.environ, limit_s=0.2)


def test_an_address_is_found_by_the_way_to_etcd() -> None:
    assert find_address(("http://127.0.0.1:2379",), "no-such-host.invalid") == "127.0.0.1"


def test_what_is_said_of_the_address_comes_before_any_guess() -> None:
    etcd = ("http://127.0.0.1:2379",)
    said = launch(advertise_host="node7", host="10.0.0.7", etcd_endpoints=etcd)
    assert reached_at(said, "localhost") == "node7"
    assert reached_at(launch(host="10.0.0.7", etcd_endpoints=etcd), "localhost") == "10.0.0.7"
    assert reached_at(launch(host="0.0.0.0", etcd_endpoints=etcd), "localhost") == "127.0.0.1"
    assert reached_at(launch(), "localhost") is None


def test_a_host_that_only_resolves_to_itself_has_no_address() -> None:
    assert find_address((), "localhost") is None
    assert find_address((), "no-such-host.invalid") is None


@pytest.mark.skipif("lo" not in [name for _, name in socket.if_nameindex()], reason="no loopback interface")
def test_the_interface_of_an_address_is_found() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") is None


def test_weights_are_looked_for_in_the_order_of_the_folders(tmp_path: Path) -> None:
    model(tmp_path / "nfs/Qwen3-32B")
    settings = launch(engine_version="0.5.23", model_dirs=(tmp_path / "nvme", tmp_path / "nfs"))
    facts = gather(settings, {}, tmp_path)
    assert facts.weights is not None
    assert facts.weights.path == tmp_path / "nfs/Qwen3-32B"
    model(tmp_path / "nvme/Qwen/Qwen3-32B")
    nearer = gather(settings, {}, tmp_path).weights
    assert nearer is not None
    assert nearer.path == tmp_path / "nvme/Qwen/Qwen3-32B"


def test_a_path_just_works(tmp_path: Path) -> None:
    own = model(tmp_path / "my-model")
    facts = gather(launch(model=str(own), engine_version="0.5.23"), {}, tmp_path)
    assert facts.name is None
    assert facts.weights is not None
    assert facts.weights.path == own


def test_an_unknown_name_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"neither a folder nor a known model.*DeepSeek-V3"):
        gather(launch(model="DeepSeek-V4", engine_version="0.5.23"), {}, tmp_path)


def test_equal_weights_have_equal_fingerprints_wherever_they_are(tmp_path: Path) -> None:
    prints = [
        locate([model(tmp_path / name, config, tensors)])
        for name, config, tensors in (
            ("a", "{}", ("a.safetensors",)),
            ("b", "{}", ("a.safetensors",)),
            ("c", '{"x":1}', ("a.safetensors",)),
            ("d", "{}", ("a.safetensors", "b.safetensors")),
        )
    ]
    a, b, c, d = (found.fingerprint for found in prints if found is not None)
    assert a == b
    assert len({a, c, d}) == 3


def test_weights_without_an_index_are_known_by_their_files(tmp_path: Path) -> None:
    found = []
    for name, size in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"0" * size)
        found.append(locate([tmp_path / name]))
    a, b, c = (one.fingerprint for one in found if one is not None)
    assert a == b != c


def test_a_missing_tensor_file_is_noticed(tmp_path: Path) -> None:
    folder = model(tmp_path / "a", tensors=("a.safetensors", "b.safetensors"))
    (folder / "b.safetensors").unlink()
    found = locate([tmp_path / "none", folder])
    assert found is not None
    assert found.missing == ("b.safetensors",)


def test_an_index_that_cannot_be_read_is_noticed(tmp_path: Path) -> None:
    folder = model(tmp_path / "a")
    (folder / "model.safetensors.index.json").write_text("[]")
    found = locate([folder])
    assert found is not None
    assert "model.safetensors.index.json" in found.missing[0]
