"""How long a worker may take for what. A look is taken every quarter of a second."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.flow.scripted import (
    ANSWER,
    DONE,
    EVENT_HEAD,
    LAST,
    Visit,
    ask,
    chunked,
    event,
    post,
    start_stage,
    whole,
)

STREAM = post(b'{"text":"a","stream":true}')
ONCE: dict[str, Any] = {"retries": {"enabled": False}}


async def silent(visit: Visit) -> None:
    await visit.gone()


async def test_no_first_token_in_time_is_a_504() -> None:
    async with start_stage(silent, silent, upstream={"first_token_s": 0.4}, **ONCE) as stage:
        answer = await ask(stage.proxy, STREAM)
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
        assert stage.proxy.lines[0]["outcome"] == "first_token_timeout"


async def test_once_prefill_has_answered_decode_must_be_quick() -> None:
    settings = {"first_token_s": 60, "first_token_after_prefill_s": 0.4}
    async with start_stage(silent, upstream=settings, **ONCE) as stage:
        assert (await ask(stage.proxy, STREAM)).status == 504


async def test_while_prefill_works_decode_may_take_its_time() -> None:
    settings = {"first_token_s": 60, "first_token_after_prefill_s": 0.2}

    async def late(visit: Visit) -> None:
        await asyncio.sleep(1.0)
        await visit.say(EVENT_HEAD + chunked(event("a"), DONE) + LAST)

    async def working(visit: Visit) -> None:
        await asyncio.sleep(1.2)
        await visit.say(whole(ANSWER))

    async with start_stage(late, working, upstream=settings, **ONCE) as stage:
        assert (await ask(stage.proxy, STREAM)).body == event("a") + DONE


async def test_a_silent_stream_ends_with_an_error_and_a_proper_end() -> None:
    async def stops(visit: Visit) -> None:
        await visit.say(EVENT_HEAD + chunked(event("a")))
        await visit.gone()

    async with start_stage(stops, upstream={"between_chunks_s": 0.3}) as stage:
        answer = await ask(stage.proxy, STREAM)
        first, error, done, _ = answer.body.split(b"\n\n")
        assert first + b"\n\n" == event("a")
        assert json.loads(error[6:])["error"]["code"] == "stall"
        assert done == b"data: [DONE]"


# The second is what workers say, which the connection never sees.
@pytest.mark.parametrize(
    "token", [event("a"), b'data: {"text":"a","meta_info":{"finish_reason":null,"completion_tokens":1}}\n\n']
)
async def test_a_stream_that_moves_has_no_limit(token: bytes) -> None:
    async def slow(visit: Visit) -> None:
        await visit.say(EVENT_HEAD)
        for _ in range(16):
            await visit.say(chunked(token))
            await asyncio.sleep(0.1)
        await visit.say(chunked(DONE) + LAST)

    settings = {"between_chunks_s": 0.8, "first_token_s": 0.8, "total_s": 0.8}
    async with start_stage(slow, upstream=settings) as stage:
        assert (await ask(stage.proxy, STREAM)).body == token * 16 + DONE


async def test_the_whole_of_an_answer_that_is_no_stream_has_its_limit() -> None:
    settings = {"first_token_s": 60, "total_s": 0.4}
    async with start_stage(silent, silent, upstream=settings, **ONCE) as stage:
        answer = await ask(stage.proxy, post())
        assert answer.status == 504


async def test_when_the_whole_limit_is_over_no_attempt_follows() -> None:
    async with start_stage(silent, silent, upstream={"total_s": 0.4}) as stage:
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert (await ask(stage.proxy, post())).status == 504
        assert loop.time() - began < 2.0
        assert len(stage.decode.visits) == 1
        assert stage.proxy.lines[0]["outcome"] == "deadline"
