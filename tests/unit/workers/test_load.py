"""An engine's own word on its load: what it does not say is unknown, never zero."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workers.engine_api import key_in, read_facts, read_load, read_loads

CAPTURES = Path(__file__).resolve().parents[2] / "contract" / "captures"


def rank(**more: Any) -> dict[str, Any]:
    queues = {
        "prefill_bootstrap_queue_reqs": 0,
        "prefill_inflight_queue_reqs": 0,
        "decode_prealloc_queue_reqs": 0,
        "decode_transfer_queue_reqs": 0,
        "kv_transfer_latency_ms": 0.0,
        "kv_transfer_speed_gb_s": 0.0,
    }
    between = {name: more.pop(name) for name in list(more) if name in queues}
    return {
        "num_running_reqs": 0,
        "num_waiting_reqs": 0,
        "token_usage": 0.0,
        "disaggregation": queues | between,
        **more,
    }


def captured(name: str) -> Any:
    return json.loads((CAPTURES / name).read_bytes().partition(b"\r\n\r\n")[2])


def test_an_idle_real_server_is_idle() -> None:
    load = read_loads(captured("decode_v1_loads.raw"))
    assert load is not None
    assert (load.busy, load.running, load.waiting, load.transferring) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    "name",
    [
        "num_running_reqs",
        "num_waiting_reqs",
        "prefill_bootstrap_queue_reqs",
        "prefill_inflight_queue_reqs",
        "decode_prealloc_queue_reqs",
        "decode_transfer_queue_reqs",
    ],
)
def test_one_request_anywhere_on_any_rank_is_not_idle(name: str) -> None:
    load = read_loads({"loads": [rank(), rank(**{name: 1})]})
    assert load is not None
    assert load.busy == 1


@pytest.mark.parametrize(
    "answer",
    [None, [], {}, {"loads": []}, {"loads": [7]}, {"loads": [{}]}, {"loads": [rank(), {"dp_rank": 1}]}],
)
def test_half_an_answer_is_unknown(answer: object) -> None:
    assert read_loads(answer) is None


@pytest.mark.parametrize(
    ("answer", "busy"),
    [
        ({"load": 0}, 0),
        ({"load": 1207}, 1207),
        ([{"dp_rank": 0, "num_reqs": 0, "num_waiting_reqs": 0}], 0),
        ([{"num_reqs": 2, "num_waiting_reqs": 1}, {"num_reqs": 1, "num_waiting_reqs": 0}], 4),
    ],
)
def test_the_older_shapes_are_read(answer: object, busy: float) -> None:
    load = read_load(answer)
    assert load is not None
    assert load.busy == busy


@pytest.mark.parametrize("answer", [None, {}, {"load": None}, {"load": True}, [], [{}], "0"])
def test_the_older_shapes_without_a_number_are_unknown(answer: object) -> None:
    assert read_load(answer) is None


def test_speeds_are_those_of_the_slowest_and_the_fastest_rank() -> None:
    ranks = [rank(kv_transfer_latency_ms=4.0), rank(kv_transfer_latency_ms=9.0, kv_transfer_speed_gb_s=3.0)]
    load = read_loads({"loads": ranks})
    assert load is not None
    assert (load.kv_transfer_s, load.kv_transfer_gb_per_s) == (0.009, 3.0)


def test_a_real_servers_facts_are_read() -> None:
    # Cut out of what a prefill of 0.5.23 told: the whole is 37 KB.
    facts = read_facts(
        {
            "model_path": "/srv/models/tiny-llama",
            "served_model_name": "tiny",
            "max_running_requests": None,
            "max_total_tokens": 8192,
            "tp_size": 1,
            "dp_size": 1,
            "max_total_num_tokens": 8192,
            "internal_states": [{"effective_max_running_requests_per_dp": 16}],
            "version": "0.5.23",
        }
    )
    assert (facts.version, facts.model) == ("0.5.23", "tiny")
    assert (facts.max_total_tokens, facts.max_running_requests, facts.tp_size) == (8192, 16, 1)


def test_running_requests_are_those_of_all_ranks() -> None:
    state = {"effective_max_running_requests_per_dp": 32}
    facts = read_facts({"dp_size": 8, "max_running_requests": None, "internal_states": [state]})
    assert facts.max_running_requests == 256


def test_the_engines_key_is_found_in_its_flags() -> None:
    assert key_in(("x", "--api-key", "k1", "y")) == "k1"
    assert key_in(("x", "--api-key=k2")) == "k2"
    assert key_in(("x", "--api-keys", "--api-key")) is None


@pytest.mark.parametrize(
    ("info", "ranks"),
    [
        ({"dp_size": 8, "enable_dp_attention": True}, 8),
        ({"dp_size": 1, "attn_dp_size": 8}, 8),
        ({"dp_size": 2, "attn_dp_size": 4}, 8),
        ({"dp_size": 4, "attn_dp_size": 1}, 4),
        ({}, None),
    ],
)
def test_the_ranks_that_a_room_may_choose_are_those_of_dp_attention_too(
    info: dict[str, Any], ranks: int | None
) -> None:
    assert read_facts(info).dp_size == ranks
