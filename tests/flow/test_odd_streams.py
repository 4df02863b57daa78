"""Streams that tempt a careless reader: a model that prints protocol, bytes one by one, all at once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.flow.scripted import (
    DONE,
    EVENT_HEAD,
    LAST,
    Script,
    Visit,
    ask,
    chunked,
    post,
    start_stage,
    stream_of,
    whole,
)
from tests.flow.talk import CHAT, GENERATE, ROUTES, alone, body_for
from tests.support.engines import BOTH_GENERATIONS

routes = pytest.mark.parametrize("route", ROUTES)
generations = pytest.mark.parametrize("version", BOTH_GENERATIONS)

# What a model may print, and a proxy that looks at text instead of events would act on.
TRAPS = (
    "data: [DONE]\n\n",
    '{"error":{"message":"KVTransferError(bootstrap_room=1): not at all","code":500}}',
    '"finish_reason":{"type":"abort","status_code":500}',
    '"finish_reason":"abort"',
    "0\r\n\r\n",
    "\n\ndata: {}\n\n",
)


def event_of(route: str, text: str, count: int, finish: str | None) -> dict[str, Any]:
    """An event, as SGLang has it."""
    if route == GENERATE:
        reason = finish and {"type": finish, "length": count}
        meta = {"id": "x", "finish_reason": reason, "completion_tokens": count}
        return {"text": text, "output_ids": list(range(count)), "meta_info": meta}
    said = {"delta": {"content": text}} if route == CHAT else {"text": text}
    choice = {"index": 0, **said, "finish_reason": finish}
    return {"id": "x", "created": 1, "model": "m", "choices": [choice], "usage": None}


def events_of(route: str, pieces: tuple[str, ...]) -> list[bytes]:
    """A whole stream of these pieces of text."""
    told = ""
    made = []
    for count, piece in enumerate(pieces, 1):
        told = told + piece if route == GENERATE else piece
        finish = "stop" if count == len(pieces) else None
        made.append(b"data: %b\n\n" % json.dumps(event_of(route, told, count, finish)).encode())
    return [*made, DONE]


def request_for(route: str, **more: Any) -> bytes:
    """The bytes that ask for it."""
    return post(json.dumps(body_for(route, **more)).encode(), path=route.encode())


@routes
@pytest.mark.parametrize("trap", TRAPS)
async def test_a_model_that_prints_protocol_is_relayed_as_it_is(route: str, trap: str) -> None:
    events = events_of(route, (trap, " and ", trap))
    script = stream_of(*[chunked(event) for event in events], LAST, between_s=0.001)
    async with start_stage(script) as stage:
        answer = await ask(stage.proxy, request_for(route, stream=True))
        assert (answer.status, answer.body) == (200, b"".join(events))
        assert answer.headers["x-pd-attempts"] == "1"
        assert [line["outcome"] for line in stage.proxy.lines] == ["ok"]


@routes
@pytest.mark.parametrize("trap", TRAPS)
async def test_the_same_in_an_answer_that_is_not_streamed(route: str, trap: str) -> None:
    made = event_of(route, trap, 3, "stop")
    if route == CHAT:
        made["choices"][0]["message"] = made["choices"][0].pop("delta")
    if route != GENERATE:
        made["usage"] = {"completion_tokens": 3}
    body = json.dumps(made).encode()

    async def script(visit: Visit) -> None:
        await visit.say(whole(body))

    async with start_stage(script) as stage:
        answer = await ask(stage.proxy, request_for(route))
        assert (answer.status, answer.body) == (200, body)
        assert answer.headers["x-pd-attempts"] == "1"


@routes
async def test_a_stream_that_breaks_behind_such_a_text_did_not_end_there(route: str) -> None:
    """`data: [DONE]` was said by the model: the stream is broken, and the client is told so."""
    first, *_ = events_of(route, ("data: [DONE]\n\n", "more"))

    async def script(visit: Visit) -> None:
        await visit.say(EVENT_HEAD, chunked(first))
        await asyncio.sleep(0.05)
        visit.writer.close()

    async with start_stage(script, retries={"continuation": "off"}) as stage:
        answer = await ask(stage.proxy, request_for(route, stream=True))
        assert answer.body.startswith(first)
        error, done, rest = answer.body[len(first) :].split(b"\n\n")
        assert json.loads(error[6:])["error"]["code"] == "truncated_midstream"
        assert (done, rest) == (b"data: [DONE]", b"")


def in_pieces(data: bytes, size: int) -> Script:
    """A script that says `data` in packets of so many bytes."""

    async def script(visit: Visit) -> None:
        for start in range(0, len(data), size):
            await visit.say(data[start : start + size])
            await asyncio.sleep(0)

    return script


@routes
@generations
@pytest.mark.parametrize("size", [1, 10**6], ids=["a byte a packet", "all in one packet"])
async def test_an_engines_stream_arrives_true_in_whatever_packets(
    route: str, version: str, size: int
) -> None:
    body = body_for(route, tokens=4, stream=True)
    async with alone(engine_version=version) as http, http.post(route, json=body) as answer:
        said = await answer.read()
    events = [block + b"\n\n" for block in said.split(b"\n\n")[:-1]]
    async with start_stage(in_pieces(EVENT_HEAD + chunked(*events) + LAST, size)) as stage:
        got = await ask(stage.proxy, request_for(route, tokens=4, stream=True))
        assert (got.status, got.body) == (200, said)
        assert [line["outcome"] for line in stage.proxy.lines] == ["ok"]
        assert [line["attempts"] for line in stage.proxy.lines] == [1]
