from __future__ import annotations

from pathlib import Path

import pytest

from proxy.errors import SettingsError
from proxy.roster import Role
from workers.settings import read_settings


def test_what_stands_after_the_dashes_is_the_engines() -> None:
    words = [
        "--engine",
        "sglang",
        "--role",
        "decode",
        "--model",
        "m",
        "--",
        "--chat-template",
        "a b",
        "--x=$y",
    ]
    launch = read_settings(words).launch()
    assert (launch.role, launch.model) == (Role.DECODE, "m")
    assert launch.engine_arguments == ("--chat-template", "a b", "--x=$y")


def test_what_was_not_said_is_left_to_the_catalogue() -> None:
    launch = read_settings(["--role", "prefill", "--model", "m"]).launch()
    assert (launch.tp_size, launch.dp_size, launch.engine_version, launch.host) == (None, None, None, None)
    assert (launch.port, launch.bootstrap_port) == (30000, 8998)
    said = read_settings(["--role", "prefill", "--model", "m", "--tp-size", "1", "--port", "1"]).launch()
    assert (said.tp_size, said.port) == (1, 1)


def test_the_launch_is_set_by_environment_and_file_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "worker.toml"
    file.write_text(
        'role = "prefill"\nmodel = "m"\nengine_arguments = ["--a", "b c"]\nmodel_dirs = ["/x", "/y"]\n'
    )
    monkeypatch.setenv("PD_WORKER_IB_DEVICES", "mlx5_0")
    monkeypatch.setenv("PD_WORKER_API_KEY", "k")
    launch = read_settings(["--config", str(file), "--allow-tcp"]).launch()
    assert launch.engine_arguments == ("--a", "b c")
    assert launch.model_dirs == (Path("/x"), Path("/y"))
    assert (launch.ib_devices, launch.allow_tcp, launch.api_key) == ("mlx5_0", True, "k")
    monkeypatch.setenv("PD_WORKER_ENGINE_ARGUMENTS", "--a 'd e'")
    monkeypatch.setenv("PD_WORKER_MODEL_DIRS", "/z,/w")
    launch = read_settings(["--config", str(file)]).launch()
    assert launch.engine_arguments == ("--a", "d e")
    assert launch.model_dirs == (Path("/z"), Path("/w"))


@pytest.mark.parametrize(("words", "name"), [(["--model", "m"], "role"), (["--role", "decode"], "model")])
def test_role_and_model_must_be_said(words: list[str], name: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name}: --engine sglang needs it"):
        read_settings(words).launch()


@pytest.mark.parametrize(
    "words", [["--transfer-backend", "smoke"], ["--dist-init-addr", "node0"], ["--log-name", "../x"]]
)
def test_a_wrong_value_is_refused_with_the_settings_name(words: list[str]) -> None:
    name = words[0].removeprefix("--").replace("-", "_")
    with pytest.raises(SettingsError, match=name):
        read_settings(words)


def test_the_simulated_engine_keeps_its_settings() -> None:
    config = read_settings(["--model", "m", "--tp-size", "2", "--allow-tcp"]).engine_config()
    assert (config.model, config.tp_size, config.port, config.host) == ("m", 2, 0, "127.0.0.1")
