"""What cannot be continued ends clean: an error event in the route's own form, and the proper end."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from proxy.flow.continuation import scribe
from tests.flow.scripted import DONE, EVENT_HEAD, LAST, Visit, chunked, start_stage
from tests.flow.talk import (
    CHAT,
    COMPLETIONS,
    GENERATE,
    PROMPT,
    ROUTES,
    Json,
    ask,
    body_for,
    start_fleet,
    texts,
)
from tests.support.engines import expected

SCHEMA = '{"type": "object"}'
REFUSED: dict[str, tuple[str, Json, str]] = {
    "json_schema": (GENERATE, {"sampling_params": {"json_schema": SCHEMA}}, "guided decoding (json_schema)"),
    "regex": (GENERATE, {"sampling_params": {"regex": "a+"}}, "guided decoding (regex)"),
    "ebnf": (COMPLETIONS, {"ebnf": "root ::= 'a'"}, "guided decoding (ebnf)"),
    "response_format": (
        CHAT,
        {"response_format": {"type": "json_object"}},
        "guided decoding (response_format)",
    ),
    "a forced tool": (CHAT, {"tool_choice": "required"}, "guided decoding (tool_choice)"),
    "hidden states": (GENERATE, {"return_hidden_states": True}, "return_hidden_states"),
    "a batch of texts": (GENERATE, {"text": [PROMPT, "another"]}, "a batch"),
    "a batch of prompts": (COMPLETIONS, {"prompt": [PROMPT, "another"]}, "a batch"),
    "images beside ids": (
        GENERATE,
        {"text": None, "input_ids": [1, 2, 3], "image_data": "data:"},
        "images beside input_ids",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_continued_is_refused_with_a_reason_and_a_proper_end(name: str) -> None:
    route, more, reason = REFUSED[name]
    body = {**body_for(route, tokens=30, stream=True), **more}
    if "sampling_params" in more:
        body["sampling_params"] = {"max_new_tokens": 30, **more["sampling_params"]}
    async with start_fleet(1, 2) as fleet:
        for decode in fleet.decodes:
            await decode.fault("truncate", after_events=4, count=1)
        got = await ask(fleet.http, route, body)
        *before, last = got.events
        assert before
        assert last["error"]["code"] == "truncated_midstream"
        assert last["error"]["message"].endswith(f"it cannot be continued: {reason}")
        line = fleet.proxy.lines[0]
        assert (line["outcome"], line["continued"]) == ("truncated_midstream", ["refused"])
        scraped = fleet.proxy.service.metrics.exposition(None)[0]
        assert b'pd_continuations_total{kind="refused"} 1.0' in scraped


@pytest.mark.parametrize("route", ROUTES)
async def test_only_what_is_exact_goes_on_where_that_is_wanted(route: str) -> None:
    settings: dict[str, Any] = {"retries": {"continuation": "exact"}}
    async with start_fleet(1, 2, settings=settings) as fleet:
        await fleet.decodes[0].fault("truncate", after_events=4, count=1)
        await fleet.decodes[1].fault("truncate", after_events=4, count=1)
        got = await ask(fleet.http, route, body_for(route, tokens=30, stream=True))
        if route == GENERATE:
            assert texts(route, got, True) == {0: expected(PROMPT, 30)}
        else:
            assert "not all of its token ids are known" in got.events[-1]["error"]["message"]


async def test_a_completion_that_tells_its_ids_is_continued_exactly() -> None:
    body = body_for(COMPLETIONS, tokens=30, stream=True, return_token_ids=True)
    async with start_fleet(1, 1, settings={"retries": {"continuation": "exact"}}) as fleet:
        wanted = (await ask(fleet.http, COMPLETIONS, body)).events
        await fleet.decodes[0].fault("truncate", after_events=4, count=1)
        got = (await ask(fleet.http, COMPLETIONS, body)).events
        assert [one["choices"] for one in got] == [one["choices"] for one in wanted]
        assert fleet.proxy.lines[1]["continued"] == ["exact"]


async def test_without_a_worker_left_the_stream_is_ended_all_the_same() -> None:
    async with start_fleet(1, 1) as fleet:
        await fleet.decodes[0].fault("die", after_events=4)
        got = await ask(fleet.http, GENERATE, body_for(GENERATE, tokens=30, stream=True))
        assert got.events[-1]["error"]["code"] in ("connect", "truncated_midstream")
        assert len(got.events) == 5


async def test_the_ledger_bounds_what_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scribe, "STREAM_BYTES", 20_000)
    body = body_for(GENERATE, tokens=600, stream=True)
    async with start_fleet(1, 2) as fleet:
        for decode in fleet.decodes:
            await decode.fault("truncate", after_events=500, count=1)
        got = await ask(fleet.http, GENERATE, body)
        assert "too much was told to be remembered" in got.events[-1]["error"]["message"]
        assert len(got.events) == 501


async def test_a_users_own_abort_is_a_normal_end() -> None:
    async with start_fleet(1, 2) as fleet:
        for decode in fleet.decodes:
            await decode.fault("abort", after_events=4, count=1)
        got = await ask(fleet.http, GENERATE, body_for(GENERATE, tokens=30, stream=True))
        assert got.events[-1]["meta_info"]["finish_reason"]["type"] == "abort"
        assert fleet.proxy.lines[0]["attempts"] == 1


def chat_chunk(delta: Json) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, "matched_stop": None}
    said = {"id": "r", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: %b\n\n" % msgspec.json.encode(said)


SPEECHES: dict[str, tuple[list[Json], str]] = {
    "reasoning": ([{"role": "assistant", "content": ""}, {"reasoning_content": "well"}], "reasoning content"),
    "a tool call": (
        [{"role": "assistant", "content": ""}, {"tool_calls": [{"index": 0, "function": {"name": "f"}}]}],
        "a tool call",
    ),
    "an unknown shape": ([{"content": ["no", "text"]}], "an event of unknown shape"),
}


@pytest.mark.parametrize("name", SPEECHES)
async def test_what_no_message_can_hold_is_not_continued(name: str) -> None:
    deltas, reason = SPEECHES[name]

    async def script(visit: Visit) -> None:
        await visit.say(EVENT_HEAD + chunked(*map(chat_chunk, deltas)))
        visit.writer.close()

    async with start_stage(script) as stage:
        got = await ask(stage.proxy.http, CHAT, body_for(CHAT, stream=True))
        assert len(got.events) == len(deltas) + 1
        assert got.events[-1]["error"]["message"].endswith(f"it cannot be continued: {reason}")
        assert len(stage.decode.visits) == 1


async def test_a_body_that_ends_well_but_without_done_is_broken_and_goes_on() -> None:
    async def script(visit: Visit) -> None:
        if visit.number == 0:
            await visit.say(EVENT_HEAD + chunked(chat_chunk({"content": "one"})) + LAST)
        else:
            assert b'"role":"assistant","content":"one"' in visit.body
            await visit.say(EVENT_HEAD + chunked(chat_chunk({"content": " two"}), DONE) + LAST)

    async with start_stage(script) as stage:
        got = await ask(stage.proxy.http, CHAT, body_for(CHAT, stream=True))
        assert [one["choices"][0]["delta"]["content"] for one in got.events] == ["one", " two"]


async def test_a_connection_that_breaks_behind_done_has_broken_nothing() -> None:
    async def script(visit: Visit) -> None:
        await visit.say(EVENT_HEAD + chunked(chat_chunk({"content": "one"}), DONE))
        visit.writer.close()

    async with start_stage(script) as stage:
        got = await ask(stage.proxy.http, CHAT, body_for(CHAT, stream=True))
        assert len(got.events) == 1
        assert (stage.proxy.lines[0]["outcome"], len(stage.decode.visits)) == ("ok", 1)


async def test_a_fault_of_the_proxy_itself_does_not_leave_half_a_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fault(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("proxy.flow.continuation.resumption.read_asked", fault)
    async with start_fleet(1, 2) as fleet:
        for decode in fleet.decodes:
            await decode.fault("truncate", after_events=4, count=1)
        got = await ask(fleet.http, GENERATE, body_for(GENERATE, tokens=30, stream=True))
        assert got.events[-1]["error"]["code"] == "internal"
        assert fleet.proxy.lines[0]["outcome"] == "internal"
