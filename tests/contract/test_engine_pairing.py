"""Prefill and decode really meet: what is wrong about a room, a host or a port is seen, as in SGLang."""

from __future__ import annotations

import asyncio

import pytest

from tests.contract.engine_client import ask, ask_pair, chat, generate
from tests.support.engines import (
    BOTH_GENERATIONS,
    expected,
    expected_chat,
    idle,
    paired,
    reached,
    start_engine,
    start_engine_process,
)
from workers.engine.oracle import completion, tokenize

both = pytest.mark.parametrize("version", BOTH_GENERATIONS)


@both
@pytest.mark.parametrize("stream", [False, True])
async def test_a_pair_answers_what_the_oracle_says(version: str, stream: bool) -> None:
    options = {"engine_version": version, "split_characters": True}
    async with start_engine("prefill", **options) as p, start_engine("decode", **options) as d:
        _, got = await ask_pair(p, d, "/generate", generate(n=40, stream=stream))
        text = got.events[-1]["text"] if stream else got.json["text"]
        assert text == expected("hello world", 40, d)
        await idle(p, d)


@both
async def test_disjoint_deltas_join_to_the_same_text(version: str) -> None:
    options = {"engine_version": version, "incremental_streaming_output": True}
    async with start_engine("prefill", **options) as p, start_engine("decode", **options) as d:
        _, got = await ask_pair(p, d, "/generate", generate(n=9, stream=True))
    assert "".join(event["text"] for event in got.events) == expected("hello world", 9)
    assert sum(len(event["output_ids"]) for event in got.events) == 9


@both
async def test_openai_routes_answer_what_the_oracle_says(version: str) -> None:
    async with (
        start_engine("prefill", engine_version=version) as p,
        start_engine("decode", engine_version=version) as d,
    ):
        _, got = await ask_pair(p, d, "/v1/chat/completions", chat(9, stream=True))
        text = "".join(c["delta"].get("content") or "" for e in got.events for c in e["choices"])
        assert text == expected_chat([{"role": "user", "content": "hi"}], 9)
        body = {"model": "m", "prompt": ["a b", "c"], "max_tokens": 5}
        _, got = await ask_pair(p, d, "/v1/completions", body)
        assert [c["text"] for c in got.json["choices"]] == [expected("a b", 5), expected("c", 5)]
        assert [c["index"] for c in got.json["choices"]] == [0, 1]


async def test_a_batch_takes_a_room_each_and_streams_with_indices() -> None:
    async with start_engine("prefill") as p, start_engine("decode") as d:
        body = {"text": ["a", "b", "c"], "stream": True, "sampling_params": {"max_new_tokens": 3}}
        _, got = await ask_pair(p, d, "/generate", body, rid="mine")
        last = {e["index"]: e for e in got.events}
        assert [last[i]["text"] for i in range(3)] == [expected(t, 3) for t in "abc"]
        assert [last[i]["meta_info"]["id"] for i in range(3)] == ["mine_0", "mine_1", "mine_2"]


async def test_text_and_its_ids_give_the_same_answer() -> None:
    async with start_engine() as engine:
        ids = list(b"hello")
        got = await ask(engine, "/generate", {"input_ids": ids, "sampling_params": {"max_new_tokens": 5}})
        assert got.json["text"] == expected("hello", 5)


async def test_another_prompt_on_prefill_gives_garbage_on_decode() -> None:
    async with start_engine("prefill") as p, start_engine("decode") as d, asyncio.TaskGroup() as tasks:
        tasks.create_task(ask(p, "/generate", paired(generate("other"), p, room=7)))
        got = await ask(d, "/generate", paired(generate(n=20), p, room=7))
        assert got.status == 200
        assert got.json["text"] != expected("hello world", 20)
        first, *rest = got.json["output_ids"]
        honest = completion([*tokenize("hello world"), first], 19)
        assert tuple(rest) != honest.ids, "decode went on as if the KV were its own prompt's"


async def test_the_fake_transfer_needs_no_partner_and_knows_nothing() -> None:
    async with start_engine("prefill") as p, start_engine("decode") as d:
        fake = {**generate(n=12), "bootstrap_host": "2.2.2.2", "bootstrap_port": 1, "bootstrap_room": 0}
        assert (await ask(p, "/generate", fake)).status == 200
        got = await ask(d, "/generate", fake)
        assert got.status == 200
        assert got.json["text"] != expected("hello world", 12)


@pytest.mark.parametrize("late", ["prefill", "decode"])
async def test_whoever_comes_first_waits(late: str) -> None:
    async with start_engine("prefill") as p, start_engine("decode") as d, asyncio.TaskGroup() as tasks:
        body = paired(generate(), p)
        early, tardy = (d, p) if late == "prefill" else (p, d)
        first = tasks.create_task(ask(early, "/generate", body))
        await asyncio.sleep(0.1)
        assert not first.done()
        await ask(tardy, "/generate", body)
        assert (await first).status == 200
        await idle(p, d)


@both
@pytest.mark.parametrize("role", ["prefill", "decode"])
async def test_without_a_room_it_is_refused(version: str, role: str) -> None:
    async with start_engine(role, engine_version=version) as engine:
        got = await ask(engine, "/generate", generate(rid="r1"))
        said = "Invalid request: Disaggregated request received without bootstrap room id. req.rid='r1'"
        assert (got.status, got.json) == (400, {"error": {"message": said}})
        streamed = await ask(engine, "/generate", generate(rid="r1", stream=True))
        assert streamed.done
        if version == "0.5.23":
            assert streamed.events[0]["meta_info"]["finish_reason"] == {
                "type": "abort",
                "message": said,
                "status_code": 400,
                "err_type": None,
            }


async def test_a_wrong_port_fails_after_the_handshake_timeout_with_sglangs_words() -> None:
    async with start_engine("prefill") as p, start_engine("decode", handshake_timeout_s=0.3) as d:
        body = {**paired(generate(rid="r"), p, room=11), "bootstrap_port": 1}
        got = await ask(d, "/generate", body)
    assert got.json == {
        "object": "error",
        "message": "Decode handshake failed for request rank=0 decode_req.req.rid='r' "
        "decode_req.req.bootstrap_room=11 with exception KVTransferError(bootstrap_room=11): "
        "Aborted by AbortReq.",
        "type": "500",
        "param": None,
        "code": 500,
    }


@both
async def test_a_wrong_room_times_out_on_both_sides(version: str) -> None:
    options = {"engine_version": version, "waiting_timeout_s": 0.4, "bootstrap_timeout_s": 0.4}
    async with start_engine("prefill", **options) as p, start_engine("decode", **options) as d:
        async with asyncio.TaskGroup() as tasks:
            one = tasks.create_task(ask(p, "/generate", paired(generate(), p, room=1)))
            other = tasks.create_task(ask(d, "/generate", paired(generate(), p, room=2)))
        assert one.result().status == other.result().status == 500
        assert "timed out after 0.4s in KVPoll.Bootstrapping" in one.result().json["message"]
        assert "timed out after 0.4s in KVPoll.WaitingForInput" in other.result().json["message"]
        await idle(p, d)


async def test_one_room_for_two_live_requests_is_an_error() -> None:
    async with start_engine("prefill") as p, start_engine("decode") as d, asyncio.TaskGroup() as tasks:
        first = tasks.create_task(ask(p, "/generate", paired(generate(), p, room=5)))
        await asyncio.sleep(0.05)
        clash = await ask(p, "/generate", paired(generate(), p, room=5))
        assert clash.status == 500
        await ask(d, "/generate", paired(generate(), p, room=5))
        assert (await first).status == 200


async def test_n_shares_one_room_and_so_fails_on_a_pair_but_works_alone() -> None:
    body = {"text": "x", "sampling_params": {"max_new_tokens": 2, "n": 2}}
    async with start_engine("prefill") as p, start_engine("decode") as d, start_engine() as alone:
        one, other = await ask_pair(p, d, "/generate", body)
        assert 500 in (one.status, other.status)
        assert [a["text"] for a in (await ask(alone, "/generate", body)).json] == [expected("x", 2)] * 2


async def test_generations_do_not_mix() -> None:
    async with (
        start_engine("prefill", engine_version="0.5.2") as p,
        start_engine("decode", engine_version="0.5.23", handshake_timeout_s=0.2) as d,
    ):
        got = await ask(d, "/generate", paired(generate(), p))
        assert got.status == 500
        assert "Decode handshake failed" in got.json["message"]


async def test_input_logprobs_are_known_to_prefill_only() -> None:
    async with start_engine("prefill") as p, start_engine("decode") as d:
        body = generate("abc", 3, return_logprob=True, logprob_start_len=0, top_logprobs_num=2)
        first, second = await ask_pair(p, d, "/generate", body)
        meta, other = first.json["meta_info"], second.json["meta_info"]
        assert [entry[1] for entry in meta["input_token_logprobs"]] == list(b"abc")
        assert meta["input_token_logprobs"][0][0] is None
        assert other["input_token_logprobs"] == other["input_top_logprobs"] == []
        assert len(other["output_token_logprobs"]) == len(other["output_top_logprobs"]) == 3


async def test_decode_tells_the_cache_hits_of_its_prefill() -> None:
    async with start_engine("prefill", page_size=4) as p, start_engine("decode") as d:
        await ask_pair(p, d, "/generate", generate("x" * 16))
        _, got = await ask_pair(p, d, "/generate", generate("x" * 16))
        assert got.json["meta_info"]["cached_tokens"] == 15
        assert got.json["meta_info"]["cached_tokens_details"] == {"device": 15, "host": 0}


@both
async def test_a_killed_prefill_is_noticed_by_decode_after_its_time(version: str) -> None:
    async with (
        start_engine_process("prefill", engine_version=version, prefill_tokens_per_s=1) as p,
        start_engine("decode", engine_version=version, lost_prefill_timeout_s=0.3) as d,
        asyncio.TaskGroup() as tasks,
    ):
        body = paired(generate(rid="r"), p, room=3)
        prefilling = tasks.create_task(ask(p, "/generate", {**body, "stream": True}))
        decoding = tasks.create_task(ask(d, "/generate", body))
        await reached(p, "running")
        await p.kill()
        got = await decoding
        assert got.status == 500
        said = got.json["message"]
        assert "Decode transfer failed for request rank=0 decode_req.req.rid='r'" in said
        assert (
            f"connection with prefill instance (bootstrap_addr: 127.0.0.1:{p.bootstrap_port})"
            in got.json["message"]
        )
        assert not (await prefilling).whole
