from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.discovery.record import Keys
from proxy.roster import Role
from tests.unit.workers.nodes import launch, mi300x
from workers.catalogue import load
from workers.errors import ConfigurationError
from workers.gpus import Gpus
from workers.plan import make_plan
from workers.weights import Weights


def value(argv: tuple[str, ...], name: str) -> str:
    assert argv.count(name) == 1, f"{name} in {argv}"
    return argv[argv.index(name) + 1]


def refused(match: str, **settings: Any) -> None:
    with pytest.raises(ConfigurationError, match=match):
        make_plan(launch(**settings), mi300x("0.5.23"))


def test_what_the_user_says_wins_over_the_catalogue() -> None:
    arguments = ("--mem-fraction-static", "0.5", "--chat-template=a b", "--mem-fraction-static=0.6")
    plan = make_plan(launch(engine_arguments=arguments, tp_size=4), mi300x("0.5.23"))
    assert value(plan.argv, "--mem-fraction-static") == "0.6"
    assert value(plan.argv, "--chat-template") == "a b"
    assert value(plan.argv, "--tp-size") == "4"
    assert plan.tp_size == 4


@pytest.mark.parametrize(
    ("flag", "instead"),
    [
        ("--disaggregation-mode=decode", "--role"),
        ("--model", "--model-path"),
        ("--tp", "--tp-size"),
        ("--tensor-parallel-size", "--tp-size"),
        ("--disaggregation-boot", "--bootstrap-port"),
        ("--api-key", "PD_WORKER_API_KEY"),
        ("--enable-dp-attention", "--dp-attention"),
    ],
)
def test_a_flag_that_the_registry_depends_on_is_refused_by_name(flag: str, instead: str) -> None:
    name = flag.partition("=")[0]
    with pytest.raises(ConfigurationError, match="engine_arguments") as caught:
        make_plan(launch(engine_arguments=(flag, "x")), mi300x("0.5.23"))
    assert instead in caught.value.message
    assert name in caught.value.message or "--tp-size" in caught.value.message


def test_a_value_before_any_flag_is_refused() -> None:
    refused("'x' stands before any flag", engine_arguments=("x", "--log-level"))


def test_the_command_that_is_shown_is_the_command_that_is_run() -> None:
    arguments = ("--chat-template", "a 'quoted' $(name)")
    plan = make_plan(launch(Role.DECODE, engine_arguments=arguments), mi300x("0.5.23"))
    shown = plan.render().partition("\n\n")[2]
    read = subprocess.run(["sh", "-c", f"printf '%s\\0' {shown}"], capture_output=True, text=True, check=True)
    words = read.stdout.removesuffix("\0").split("\0")
    assert tuple(words) == (*(f"{name}={text}" for name, text in plan.env.items()), *plan.argv)


def test_secrets_are_neither_shown_nor_told() -> None:
    arguments = ("--admin-api-key=s3cret2", "--ssl-keyfile-password", "s3cret3", "--log-level", "info")
    plan = make_plan(launch(api_key="s3cret1", engine_arguments=arguments), mi300x("0.5.23"))
    assert value(plan.argv, "--api-key") == "s3cret1"
    told = plan.render() + json.dumps(plan.as_json())
    assert "s3cret" not in told
    assert "--log-level info" in plan.render()
    assert json.loads(json.dumps(plan.as_json()))["role"] == "prefill"


def test_a_value_that_looks_like_a_flag_stays_a_value_and_a_secret_stays_secret() -> None:
    plan = make_plan(launch(api_key="--s3cret", engine_arguments=("--random-seed", "-1")), mi300x("0.5.23"))
    assert "--api-key=--s3cret" in plan.argv
    assert "--random-seed=-1" in plan.argv
    assert "s3cret" not in plan.render() + json.dumps(plan.as_json())


def test_secrets_of_the_environment_are_not_told_either(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('[models."Qwen3-32B"]\nenv = { HF_TOKEN = "s3cret", A_SIZE = "1" }\n')
    plan = make_plan(launch(), mi300x("0.5.23", catalogue=load(own)))
    assert plan.env["HF_TOKEN"] == "s3cret"
    assert "s3cret" not in plan.render() + json.dumps(plan.as_json())
    assert "A_SIZE=1" in plan.render()


def test_only_prefill_has_a_bootstrap_port() -> None:
    facts = mi300x("0.5.23")
    assert make_plan(launch(bootstrap_port=9001), facts).bootstrap_port == 9001
    decode = make_plan(launch(Role.DECODE, bootstrap_port=9001), facts)
    assert decode.bootstrap_port is None
    assert "--disaggregation-bootstrap-port" not in decode.argv


def test_a_worker_that_serves_alone_is_not_disaggregated() -> None:
    plan = make_plan(launch(Role.REGULAR), mi300x("0.5.23", devices=()))
    assert not any(word.startswith("--disaggregation") for word in plan.argv)
    assert "MC_FORCE_TCP" not in plan.env


def test_the_key_is_the_registrys() -> None:
    plan = make_plan(launch(registry_root="x", served_model_name="org/name"), mi300x("0.5.23"))
    assert Keys("x").parts(plan.registry_key) == ("org/name", Role.PREFILL, "prefill-10.0.0.1-30000")
    assert value(plan.argv, "--served-model-name") == "org/name" == plan.model_name
    assert make_plan(launch(worker_id="w1"), mi300x("0.5.23")).worker_id == "w1"


def test_only_rank_0_of_several_nodes_registers() -> None:
    nodes: dict[str, Any] = {"nnodes": 2, "tp_size": 16, "dist_init_addr": "node0:20000"}
    plans = [make_plan(launch(**nodes, node_rank=rank), mi300x("0.5.23")) for rank in (0, 1)]
    assert [plan.registers for plan in plans] == [True, False]
    assert [value(plan.argv, "--node-rank") for plan in plans] == ["0", "1"]
    assert plans[1].env["GLOO_SOCKET_IFNAME"] == "ens50f0"


def test_what_is_set_outside_stays_as_it_is() -> None:
    facts = mi300x("0.5.23", environ={"SGLANG_USE_AITER": "0", "MC_GID_INDEX": "1", "HOME": "/"})
    env = make_plan(launch(), facts).env
    assert not {"SGLANG_USE_AITER", "MC_GID_INDEX", "HOME"} & set(env)
    assert env["NCCL_IB_GID_INDEX"] == "3"


def test_tcp_is_taken_only_when_it_is_allowed() -> None:
    bare = mi300x("0.5.23", devices=())
    with pytest.raises(ConfigurationError, match=r"ib_devices.*--allow-tcp"):
        make_plan(launch(), bare)
    plan = make_plan(launch(allow_tcp=True), bare)
    assert plan.env["MC_FORCE_TCP"] == "1"
    assert "--disaggregation-ib-device" not in plan.argv
    assert any("TCP" in note for note in plan.notes)


def test_tcp_can_be_had_in_spite_of_rdma() -> None:
    refused("ib_devices.*--allow-tcp", ib_devices="none")
    plan = make_plan(launch(ib_devices="none", allow_tcp=True), mi300x("0.5.23"))
    assert plan.env["MC_FORCE_TCP"] == "1"
    forced = make_plan(launch(), mi300x("0.5.23", environ={"MC_FORCE_TCP": "1"}))
    assert "--disaggregation-ib-device" not in forced.argv


def test_rdma_is_never_mixed_with_a_forced_tcp() -> None:
    assert "MC_FORCE_TCP" not in make_plan(launch(allow_tcp=True), mi300x("0.5.23")).env


@pytest.mark.parametrize("backend", ["mooncake", "nixl", "mori"])
def test_the_transfer_backend_is_passed_on(backend: str) -> None:
    plan = make_plan(launch(transfer_backend=backend), mi300x("0.5.23"))
    assert value(plan.argv, "--disaggregation-transfer-backend") == backend == plan.transfer_backend


def test_a_backend_that_the_engine_lacks_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="transfer_backend: mori"):
        make_plan(launch(transfer_backend="mori"), mi300x("0.5.2rc1"))


@pytest.mark.parametrize(
    ("match", "settings"),
    [
        ("node_rank: 2 is not one of 2", {"nnodes": 2, "node_rank": 2, "dist_init_addr": "a:1"}),
        ("dist_init_addr", {"nnodes": 2}),
        ("tp_size: 9 GPUs cannot be spread", {"nnodes": 2, "tp_size": 9, "dist_init_addr": "a:1"}),
        ("tp_size: 16 GPUs are wanted on this node, which has 8", {"tp_size": 16}),
        ("tp_size: 16 GPUs are wanted", {"tp_size": 8, "dp_size": 2}),
        ("dp_size: 1 ranks of attention", {"dp_attention": True}),
        ("dp_size: 3 ranks of attention", {"dp_attention": True, "dp_size": 3}),
        ("dp_size: SGLang has replicas", {"nnodes": 2, "dp_size": 2, "dist_init_addr": "a:1"}),
        ("bootstrap_port: 30000 is the engine's own", {"bootstrap_port": 30000}),
        ("0 is no port", {"port": 0}),
        (r"host: an engine on 127\.0\.0\.1 cannot be reached at 10\.0\.0\.1", {"host": "127.0.0.1"}),
    ],
)
def test_what_cannot_work_is_refused_with_the_setting(match: str, settings: dict[str, Any]) -> None:
    refused(match, **settings)


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "::1"])
def test_all_on_one_node_may_stay_on_the_loopback(address: str) -> None:
    plan = make_plan(launch(host="127.0.0.1"), mi300x("0.5.23", address=address))
    assert (plan.host, plan.advertise_host) == ("127.0.0.1", address)


def test_an_unknown_address_is_asked_for() -> None:
    with pytest.raises(ConfigurationError, match="--advertise-host"):
        make_plan(launch(), mi300x("0.5.23", address=None))


def test_an_ipv6_node_listens_and_is_reached_by_ipv6() -> None:
    plan = make_plan(launch(), mi300x("0.5.23", address="[fd00::1]"))
    assert plan.host == "::"
    assert plan.advertise_host == "fd00::1"
    assert "http://[fd00::1]:30000" in plan.render()


def test_missing_weights_are_refused_but_not_in_a_dry_run() -> None:
    facts = mi300x("0.5.23", weights=None, places=(Path("/nvme/Qwen3-32B"), Path("/nfs/Qwen3-32B")))
    with pytest.raises(ConfigurationError, match="/nvme/Qwen3-32B, /nfs/Qwen3-32B"):
        make_plan(launch(), facts)
    plan = make_plan(launch(dry_run=True), facts)
    assert plan.model_path == "/nvme/Qwen3-32B"
    assert any("no weights" in note for note in plan.notes)


def test_weights_that_are_not_whole_are_refused_unless_they_are_loaded_otherwise() -> None:
    lame = replace(mi300x("0.5.23"), weights=Weights(Path("/m"), "sha256:0", ("a.safetensors",)))
    with pytest.raises(ConfigurationError, match=r"model: /m lacks a\.safetensors"):
        make_plan(launch(), lame)
    assert any("a.safetensors" in note for note in make_plan(launch(dry_run=True), lame).notes)
    assert make_plan(launch(engine_arguments=("--load-format", "dummy")), lame).model_path == "/m"


def test_a_renamed_flag_of_the_users_replaces_the_catalogues() -> None:
    for name in ("--cuda-graph-bs", "--cuda-graph-bs-decode"):
        plan = make_plan(launch(Role.DECODE, engine_arguments=(name, "1", "2")), mi300x("0.5.23"))
        at = plan.argv.index("--cuda-graph-bs-decode")
        assert plan.argv[at + 1 : at + 3] == ("1", "2")
        assert plan.argv.count("--cuda-graph-bs-decode") == 1
        assert "512" not in plan.argv


def test_a_node_whose_gpus_are_not_seen_is_told_of() -> None:
    plan = make_plan(launch(), mi300x("0.5.23", gpus=Gpus()))
    assert any("no GPU" in note for note in plan.notes)
    assert "--attention-backend" not in plan.argv


def test_the_log_has_the_name_that_users_know() -> None:
    facts = mi300x("0.5.23")
    assert make_plan(launch(log_dir=Path("/l")), facts).log_file == Path("/l/prefill_NODE0.log")
    named = launch(Role.DECODE, log_name="decode_NODE3")
    assert make_plan(named, facts).log_file == Path("logs/decode_NODE3.log")


def test_the_same_facts_make_the_same_plan() -> None:
    assert make_plan(launch(), mi300x("0.5.23")) == make_plan(launch(), mi300x("0.5.23"))
