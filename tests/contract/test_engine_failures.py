"""Failures and faults, as each generation tells them."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import aiohttp
import pytest

from tests.contract.engine_client import Answer, ask, ask_pair, chat, generate
from tests.support.engines import (
    BOTH_GENERATIONS,
    InProcess,
    expected,
    idle,
    paired,
    reached,
    start_engine,
    start_engine_process,
)

both = pytest.mark.parametrize("version", BOTH_GENERATIONS)
ROUTES = [
    ("/generate", generate(stream=True)),
    ("/v1/chat/completions", chat(stream=True)),
    ("/v1/completions", {"model": "m", "prompt": "x", "max_tokens": 4, "stream": True}),
]


async def failed_stream(version: str, path: str, body: dict[str, Any]) -> Answer:
    async with (
        start_engine("prefill", engine_version=version) as p,
        start_engine("decode", engine_version=version) as d,
    ):
        await p.fault("kv_transfer")
        prefill, decode = await ask_pair(p, d, path, body)
        await idle(p, d)
        assert prefill.status == decode.status == 200
        return decode


async def test_the_new_generation_tells_a_failed_transfer_in_the_stream() -> None:
    got = await failed_stream("0.5.23", *ROUTES[0])
    finish = got.events[0]["meta_info"]["finish_reason"]
    assert (finish["type"], finish["status_code"]) == ("abort", 500)
    assert "Decode transfer failed" in finish["message"]
    assert "KVTransferError(bootstrap_room=" in finish["message"]
    assert got.done
    for path, body in ROUTES[1:]:
        got = await failed_stream("0.5.23", path, body)
        assert got.events[0]["error"]["code"] == 500
        assert got.done


async def test_the_old_generation_truncates_but_for_completions_which_it_calls_a_bad_request() -> None:
    for path, body in ROUTES[:2]:
        got = await failed_stream("0.5.2", path, body)
        assert not got.whole
        assert got.body == b""
    got = await failed_stream("0.5.2", *ROUTES[2])
    assert got.events[0]["error"]["code"] == 400
    assert got.events[0]["error"]["type"] == "BadRequestError"
    assert got.done


@both
async def test_not_streamed_a_failed_transfer_is_a_500_on_both_sides(version: str) -> None:
    async with (
        start_engine("prefill", engine_version=version) as p,
        start_engine("decode", engine_version=version) as d,
    ):
        await p.fault("kv_transfer", count=1)
        first, second = await ask_pair(p, d, "/generate", generate())
        assert (first.status, second.status) == (500, 500)
        assert first.json["message"].startswith("Prefill transfer failed")
        assert second.json["message"].startswith("Decode transfer failed")
        assert (await ask_pair(p, d, "/generate", generate()))[1].status == 200


@both
async def test_a_dead_session_fails_on_this_edge_only_and_0523_forgives(version: str) -> None:
    options = {"engine_version": version, "session_probe_s": 0.3}
    async with (
        start_engine("prefill", **options) as p,
        start_engine("decode", **options) as d,
        start_engine("decode", **options) as other,
    ):
        await p.fault("kv_transfer", count=1, session_dead=True)
        await ask_pair(p, d, "/generate", generate())
        _, got = await ask_pair(p, d, "/generate", generate())
        assert got.status == 500
        assert (await ask_pair(p, other, "/generate", generate()))[1].status == 200
        await asyncio.sleep(0.35)
        again = (await ask_pair(p, d, "/generate", generate()))[1].status
        assert again == (200 if version == "0.5.23" else 500)


async def test_a_failed_bootstrap_leaves_decode_waiting_with_its_slot() -> None:
    async with start_engine("prefill") as p, start_engine("decode", waiting_timeout_s=0.5) as d:
        await p.fault("kv_bootstrap")
        async with asyncio.TaskGroup() as tasks:
            pair = tasks.create_task(ask_pair(p, d, "/generate", generate()))
            await reached(d, "kv_receiving")
            assert (await d.state())["running"] == 1
        first, second = pair.result()
        assert first.json["message"].startswith("Prefill bootstrap failed")
        assert "timed out" in second.json["message"]


async def streamed(kind: str, **fields: Any) -> Answer:
    async with start_engine() as engine:
        await engine.fault(kind, **fields)
        return await ask(engine, "/generate", generate(n=6, stream=True))


async def test_wire_faults_strike_where_they_say() -> None:
    got = await streamed("truncate", after_events=2)
    assert (len(got.events), got.whole) == (2, False)
    got = await streamed("truncate")
    assert (got.status, got.body, got.whole) == (200, b"", False)
    got = await streamed("error_event", after_events=1, status=503, message="m")
    assert got.events[-1]["error"] == {
        "object": "error",
        "message": "m",
        "type": "503",
        "param": None,
        "code": 503,
    }
    assert got.done
    got = await streamed("abort", after_events=2, status=500, message="m")
    assert got.events[-1]["meta_info"]["finish_reason"]["message"] == "m"
    assert got.events[-1]["meta_info"]["completion_tokens"] == 2
    got = await streamed("length_zero")
    assert got.events[0]["meta_info"]["completion_tokens"] == 0
    assert got.events[0]["meta_info"]["finish_reason"] == {"type": "length", "length": 0}
    got = await streamed("empty")
    assert (got.status, got.body) == (200, b"")
    got = await streamed("status", status=503)
    assert (got.status, got.json["message"]) == (503, "The request queue is full.")


async def test_resets_are_connection_errors() -> None:
    with pytest.raises(aiohttp.ClientError):
        await streamed("reset")
    got = await streamed("reset", after_bytes=600)
    assert not got.whole
    assert len(got.body) <= 600


@pytest.mark.parametrize("fields", [{"before_head": True}, {}, {"after_events": 2}])
async def test_a_hang_lasts_until_the_client_leaves(fields: dict[str, Any]) -> None:
    async with start_engine() as engine:
        await engine.fault("hang", **fields)
        with pytest.raises(TimeoutError):
            await ask(engine, "/generate", generate(stream=True), limit_s=0.3)
        await idle(engine)


async def test_the_role_chunk_then_an_abort() -> None:
    async with start_engine() as engine:
        await engine.fault("role_then_abort", status=500)
        got = await ask(engine, "/v1/chat/completions", chat(stream=True))
    role, end = (event["choices"][0] for event in got.events)
    assert role["delta"]["role"] == "assistant"
    assert end["finish_reason"] == "abort"
    assert got.done


async def test_a_refusing_engine_comes_back_on_its_port() -> None:
    async with start_engine() as engine:
        await engine.fault("refuse", for_s=0.3)
        with pytest.raises(aiohttp.ClientConnectorError):
            await ask(engine, "/health", None)
        deadline = time.monotonic() + 5
        while True:
            try:
                assert (await ask(engine, "/health", None)).status == 200
                break
            except aiohttp.ClientConnectorError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("process", [False, True])
async def test_death_cuts_the_stream_and_refuses_from_then_on(process: bool) -> None:
    start = start_engine_process if process else start_engine
    async with start() as engine:
        await engine.fault("die", after_events=2)
        try:
            got = await ask(engine, "/generate", generate(n=50, stream=True))
            assert not got.whole
        except aiohttp.ClientError:
            pass
        with pytest.raises(aiohttp.ClientError):
            await ask(engine, "/health", None)


async def test_faults_are_armed_and_listed_over_http() -> None:
    async with start_engine() as engine:
        assert (await ask(engine, "/simulate/faults", {"kind": "nope"})).status == 400
        armed = {"kind": "status", "status": 429, "count": 1, "seed": 3}
        assert (await ask(engine, "/simulate/faults", armed)).status == 200
        assert (await ask(engine, "/generate", generate())).status == 429
        assert (await ask(engine, "/generate", generate())).status == 200
        assert (await ask(engine, "/simulate/faults", None)).json[0]["hits"] == 1


async def slow(engine: InProcess, tasks: asyncio.TaskGroup, **more: Any) -> asyncio.Task[Answer]:
    """A request that runs for long, once it runs."""
    before = (await engine.state())["live"]
    task = tasks.create_task(ask(engine, "/generate", generate(n=5000, **more)))
    await reached(engine, "live", before + 1)
    return task


async def test_an_abort_by_prefix_ends_a_running_request_without_a_status() -> None:
    async with start_engine(decode_ms_per_token=5) as engine, asyncio.TaskGroup() as tasks:
        task = await slow(engine, tasks, rid="abc-1")
        await ask(engine, "/abort_request", {"rid": "abc"})
        got = await task
        assert got.status == 200
        assert got.json["meta_info"]["finish_reason"]["type"] == "abort"
        assert got.json["meta_info"]["finish_reason"]["status_code"] is None
        assert (await engine.state())["aborts"] == [{"rid": "abc", "abort_all": False, "hit": 1}]


async def test_an_abort_reaches_both_sides_while_they_wait_for_each_other() -> None:
    async with start_engine("prefill") as p, start_engine("decode") as d, asyncio.TaskGroup() as tasks:
        one = tasks.create_task(ask(p, "/generate", paired(generate(rid="r"), p, room=1)))
        other = tasks.create_task(ask(d, "/generate", paired(generate(rid="r"), p, room=2)))
        await reached(p, "live")
        await reached(d, "kv_receiving")
        for engine in (p, d):
            await ask(engine, "/abort_request", {"rid": "r"})
        assert "Aborted by AbortReq" in (await one).json["message"]
        assert "Aborted by AbortReq" in (await other).json["message"]
        await idle(p, d)


async def test_a_client_that_leaves_frees_both_sides() -> None:
    async with start_engine("prefill", prefill_tokens_per_s=1) as p, start_engine("decode") as d:
        body = paired(generate(), p)
        async with asyncio.TaskGroup() as tasks:
            for engine in (p, d):
                tasks.create_task(_leave(engine, body))
        await idle(p, d, within_s=2)
        assert (await p.state())["aborted"] == (await d.state())["aborted"] == 1


async def _leave(engine: InProcess, body: dict[str, Any]) -> None:
    with pytest.raises(TimeoutError):
        await ask(engine, "/generate", body, limit_s=0.3)


async def test_a_live_rid_is_refused_and_a_full_queue_too() -> None:
    limits: dict[str, Any] = {"max_running_requests": 1, "max_queued_requests": 0}
    async with start_engine(decode_ms_per_token=5, **limits) as engine, asyncio.TaskGroup() as tasks:
        task = await slow(engine, tasks, rid="one")
        assert (await ask(engine, "/generate", generate(rid="one"))).status == 400
        full = await ask(engine, "/generate", generate())
        assert (full.status, full.json["message"]) == (503, "The request queue is full.")
        await ask(engine, "/abort_request", {"abort_all": True})
        await task


async def test_stop_strings_and_stop_tokens_end_an_output() -> None:
    text = expected("x", 10)
    word = text.split()[2]
    async with start_engine() as engine:
        params = {"max_new_tokens": 10, "stop": [f" {word}"]}
        got = await ask(engine, "/generate", {"text": "x", "sampling_params": params})
        assert got.json["text"] == text[: text.index(f" {word}")]
        assert got.json["meta_info"]["finish_reason"] == {"type": "stop", "matched": f" {word}"}


async def test_with_a_key_only_health_and_metrics_are_open() -> None:
    async with start_engine(api_key="secret") as engine:
        assert (await ask(engine, "/generate", generate())).status == 401
        assert (await ask(engine, "/v1/models", None)).status == 401
        assert (await ask(engine, "/health", None)).status == 200
        assert (await ask(engine, "/metrics", None)).status == 200
        key = {"Authorization": "Bearer secret"}
        async with (
            aiohttp.ClientSession(headers=key) as http,
            http.post(engine.url + "/generate", json=generate()) as answer,
        ):
            assert answer.status == 200


async def test_what_arrived_is_told_with_headers_and_keys_in_order() -> None:
    async with start_engine() as engine:
        body = json.dumps({**generate(), "unknown": 1, "rid": "r"}).encode()
        await ask(engine, "/generate", body)
        state = await engine.state()
        assert state["total_requests"] == 1
        assert state["requests"][0]["keys"] == ["text", "stream", "sampling_params", "unknown", "rid"]
        assert ["content-type", "application/json"] in state["requests"][0]["headers"]
