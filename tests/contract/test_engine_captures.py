"""The simulated engine beside what a real SGLang 0.5.23 pair answered, key by key."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.engine_client import CAPTURES, ask, ask_pair, capture, chat, generate
from tests.contract.shapes import keys, loose, same_head
from tests.support.engines import start_engine

LONG = "a" * 4500


@pytest.mark.parametrize(
    ("name", "path", "body"),
    [
        ("plain_bad_badparam", "/generate", {"text": "x", "sampling_params": {"nope": 1}}),
        ("plain_bad_badtemp", "/generate", {"text": "x", "sampling_params": {"temperature": -1}}),
        (
            "plain_bad_badtemp_stream",
            "/generate",
            {"text": "x", "stream": True, "sampling_params": {"temperature": -1}},
        ),
        ("plain_bad_empty", "/generate", {}),
        ("plain_bad_toolong", "/generate", generate(LONG)),
        ("plain_bad_toolong_stream", "/generate", generate(LONG, stream=True)),
        ("plain_bad_chat_emptymsgs", "/v1/chat/completions", {"model": "tiny", "messages": []}),
        ("plain_bad_chat_maxtok", "/v1/chat/completions", chat(-1)),
    ],
)
async def test_refusals_are_the_captured_bytes(name: str, path: str, body: dict[str, Any]) -> None:
    async with start_engine(context_length=2048) as engine:
        ours, real = await ask(engine, path, body), capture(name)
    same_head(ours, real)
    assert ours.body == real.body


@pytest.mark.parametrize(
    ("name", "path", "body"),
    [
        ("plain_bad_notjson", "/generate", b"this is not json"),
        ("plain_bad_chat_notjson", "/v1/chat/completions", b'{"model":'),
        ("plain_bad_wrongtype", "/generate", {"text": 5}),
        ("plain_bad_chat_nomsgs", "/v1/chat/completions", {"model": "tiny"}),
        ("plain_bad_chat_toolong", "/v1/chat/completions", None),
        ("plain_bad_chat_toolong_stream", "/v1/chat/completions", None),
    ],
)
async def test_refusals_of_validation_have_the_captured_shape(name: str, path: str, body: Any) -> None:
    if body is None:
        body = chat(stream="stream" in name, messages=[{"role": "user", "content": LONG}])
    async with start_engine(context_length=2048) as engine:
        ours, real = await ask(engine, path, body), capture(name)
    same_head(ours, real)
    assert keys(ours.json) == keys(real.json)
    assert {**ours.json, "message": ""} == {**real.json, "message": ""}
    assert ours.json["message"][:11] == real.json["message"][:11]


async def test_a_plain_server_answers_generate_as_captured() -> None:
    async with start_engine() as engine:
        whole = await ask(engine, "/generate", generate())
        streamed = await ask(engine, "/generate", generate(stream=True))
    real = capture("plain_generate")
    same_head(whole, real)
    assert loose(whole.json) == loose(real.json)
    real = capture("plain_generate_stream")
    same_head(streamed, real)
    assert [loose(event) for event in streamed.events] == [loose(event) for event in real.events]
    assert streamed.done


async def test_a_pair_streams_generate_as_captured_on_both_sides() -> None:
    async with start_engine("prefill") as p, start_engine("decode") as d:
        sides = await ask_pair(p, d, "/generate", generate(stream=True))
    for ours, name in zip(sides, ("prefill_generate_stream", "decode_generate_stream"), strict=True):
        real = capture(name)
        same_head(ours, real)
        assert [loose(event) for event in ours.events] == [loose(event) for event in real.events]
        assert ours.done
    assert sides[0].events[0]["meta_info"]["finish_reason"] == {"type": "length", "length": 0}


async def test_openai_streams_are_as_captured() -> None:
    async with start_engine() as engine:
        asked = chat(3, stream=True, stream_options={"include_usage": True})
        ours = await ask(engine, "/v1/chat/completions", asked)
        body = {"model": "tiny", "prompt": "x", "max_tokens": 3, "stream": True}
        completed = await ask(engine, "/v1/completions", body)
    real = capture("plain_chat_stream")
    same_head(ours, real)
    first, *_, end, usage = real.events
    assert keys(ours.events[0]) == keys(first)
    assert keys(ours.events[1]) == keys(real.events[1])
    assert keys(ours.events[-2]) == keys(end)
    assert keys(ours.events[-1]) == keys(usage)
    real = capture("plain_completions_stream")
    same_head(completed, real)
    assert [keys(event) for event in completed.events] == [keys(event) for event in real.events]
    assert completed.done
    assert ours.done


async def test_a_whole_chat_is_as_captured_and_serves_any_model_name() -> None:
    async with start_engine() as engine:
        ours = await ask(engine, "/v1/chat/completions", chat(1, model="other"))
    real = capture("plain_bad_wrongmodel")
    same_head(ours, real)
    assert keys(ours.json) == keys(real.json)
    assert ours.json["model"] == "other"


@pytest.mark.parametrize(
    "path", ["/health", "/health_generate", "/v1/models", "/ping", "/nosuch", "/get_load"]
)
async def test_small_routes_are_as_captured(path: str) -> None:
    async with start_engine(model="tiny") as engine:
        ours = await ask(engine, path, None)
    real = capture("plain_" + path.strip("/").replace("/", "_"))
    assert ours.status == real.status
    if real.body:
        assert keys(ours.json) == keys(real.json)


@pytest.mark.parametrize(
    ("role", "name"), [("regular", "plain"), ("prefill", "prefill"), ("decode", "decode")]
)
async def test_loads_model_info_and_metrics_tell_what_the_real_ones_tell(role: str, name: str) -> None:
    async with start_engine(role, model="tiny") as engine:
        loads = await ask(engine, "/v1/loads?include=core", None)
        info = await ask(engine, "/model_info", None)
        metrics = await ask(engine, "/metrics", None)
    ours, real = loads.json["loads"][0], capture(f"{name}_v1_loads").json["loads"][0]
    assert list(ours) == list(real)
    assert list(ours["disaggregation"]) == list(real["disaggregation"])
    assert ours["disaggregation"]["mode"] == real["disaggregation"]["mode"]
    real_info = capture(f"{name}_model_info").json
    assert set(info.json) <= set(real_info)
    assert info.json["disaggregation_mode"] == real_info["disaggregation_mode"]
    known = set((CAPTURES / f"{name}_metric_names.txt").read_text().splitlines())
    told = {
        f"{words[2]} {words[3]}"
        for line in metrics.body.decode().splitlines()
        if (words := line.split())[:2] == ["#", "TYPE"] and not words[2].endswith("_created")
    }
    assert told <= known
    assert len(told) > 15
