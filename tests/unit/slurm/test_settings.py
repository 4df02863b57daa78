"""Settings: the recipe's variables, each checked, each named where it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.slurm.job.settings import INTERNAL, VARIABLES, Layout, Runtime, read_settings
from proxy.errors import SettingsError
from tests.unit.slurm.environs import RECIPE, settings

ROOT = Path(__file__).resolve().parents[3]
MODELS = (
    "Llama-3.1-8B-Instruct",
    "Llama-3.1-405B-Instruct-FP8-KV",
    "amd-Llama-3.3-70B-Instruct-FP8-KV",
    "Qwen3-32B",
    "DeepSeek-V3",
    "Mixtral-8x7B-v0.1",
)


def problem(**more: str) -> str:
    with pytest.raises(SettingsError) as raised:
        settings(**more)
    return raised.value.message


def test_the_recipes_variables_are_enough_and_its_defaults_hold() -> None:
    read = settings(xP="", yD="")
    assert (read.prefills, read.decodes, read.nodes) == (1, 1, 3)
    assert (read.runtime, read.layout, read.etcd_members) == (Runtime.DOCKER, Layout.SEPARATE, "1")
    assert (read.ib_devices, read.transfer, read.skip_benchmark) == ("auto", "mooncake", False)
    assert (read.proxy_port, read.worker_port, read.bootstrap_port, read.etcd_port) == (
        30000,
        30000,
        8998,
        2379,
    )
    assert read.logs == Path("/shared/logs/77")


@pytest.mark.parametrize("model", MODELS)
def test_each_of_the_six_models_is_known_by_its_exact_name(model: str) -> None:
    assert settings(MODEL_NAME=model).model == model


def test_an_unknown_model_is_an_error_that_lists_the_known_ones() -> None:
    told = problem(MODEL_NAME="Qwen3-23B")
    assert told.startswith("MODEL_NAME: 'Qwen3-23B' is not known. Did you mean Qwen3-32B?")
    assert all(model in told for model in MODELS)


def test_no_model_is_an_error_that_lists_the_known_ones() -> None:
    told = problem(MODEL_NAME="")
    assert told.startswith("MODEL_NAME: must be set")
    assert all(model in told for model in MODELS)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("xP", "0"),
        ("yD", "two"),
        ("MODEL_DIR", "models"),
        ("MODEL_PATH", "/a,b"),
        ("LOG_PATH", "logs"),
        ("KV_TRANSFER_BACKEND", "tcp"),
        ("SKIP_BENCHMARK", "perhaps"),
        ("DOCKER_IMAGE_NAME", "--privileged"),
        ("PD_JOB_RUNTIME", "singularity"),
        ("PD_JOB_LAYOUT", "mixed"),
        ("PD_JOB_ETCD_MEMBERS", "2"),
        ("PD_JOB_SUBNET", "10.1.0.0/33"),
        ("PD_JOB_INTERFACE", "eth0;reboot"),
        ("PD_JOB_PROXY_PORT", "0"),
        ("PD_JOB_BOOTSTRAP_PORT", "2380"),
        ("PD_JOB_WORKER_PORT", "2379"),
        ("PD_JOB_START_S", "0"),
        ("PD_JOB_MODEL_DIRS", "/nvme,shared"),
        ("PD_JOB_DECODE_ARGS", "--flag 'open"),
    ],
)
def test_a_wrong_value_is_an_error_that_begins_with_its_variable(variable: str, value: str) -> None:
    assert problem(**{variable: value}).startswith(f"{variable}: ")


def test_all_wrong_values_are_told_at_once() -> None:
    assert [line.partition(":")[0] for line in problem(xP="x", yD="y").splitlines()] == ["xP", "yD"]


def test_a_misspelt_setting_of_ours_is_an_error() -> None:
    told = problem(PD_JOB_LAYOUTS="colocated")
    assert told == "PD_JOB_LAYOUTS: no such setting; did you mean PD_JOB_LAYOUT?"


@pytest.mark.parametrize("runtime", ["docker", "podman", "enroot"])
def test_a_container_runtime_needs_an_image_and_none_does_not(runtime: str) -> None:
    assert "DOCKER_IMAGE_NAME: must be set" in problem(DOCKER_IMAGE_NAME="", PD_JOB_RUNTIME=runtime)
    assert settings(DOCKER_IMAGE_NAME="", PD_JOB_RUNTIME="none").image is None


def test_three_etcds_need_three_nodes() -> None:
    more = {"xP": "1", "yD": "1", "PD_JOB_LAYOUT": "colocated", "PD_JOB_ETCD_MEMBERS": "3"}
    assert problem(**more).startswith("PD_JOB_ETCD_MEMBERS: ")


def test_nothing_is_assumed_of_where_a_site_keeps_its_weights() -> None:
    assert problem(MODEL_DIR="").startswith("MODEL_PATH: nothing says where the weights are")


def test_weights_are_looked_for_in_the_recipes_order() -> None:
    read = settings(MODEL_PATH="/own", MODEL_DIR="/last", PD_JOB_MODEL_DIRS="/nvme, /shared")
    assert [str(folder) for folder in read.weights_mounts] == ["/own", "/nvme", "/shared", "/last"]
    assert [str(folder) for folder in read.model_folders] == ["/nvme", "/shared", "/last"]


def test_a_users_own_catalogue_adds_models(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[models."Mine-70B"]\nbase = "mi300x"\n')
    assert settings(MODEL_NAME="Mine-70B", PD_JOB_CATALOGUE=str(file)).model == "Mine-70B"
    file.write_text("no toml")
    assert problem(PD_JOB_CATALOGUE=str(file)).startswith("PD_JOB_CATALOGUE: ")


def test_every_variable_is_documented() -> None:
    told = (ROOT / "docs" / "slurm.md").read_text()
    named = set(VARIABLES) | {"PD_JOB_CHECKOUT", "PD_JOB_PYTHON"}
    assert sorted(name for name in named if f"| `{name}` |" not in told) == []
    own = {name for name in INTERNAL if f"`{name}`" in told}
    assert own == {"PD_JOB_CHECKOUT", "PD_JOB_PYTHON"}


def test_other_variables_are_none_of_its_business() -> None:
    assert read_settings(RECIPE | {"PATH": "/bin", "PD_WORKER_DRAIN_LIMIT_S": "5"}) == read_settings(RECIPE)
