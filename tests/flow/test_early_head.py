"""early_head_s: a stream's head before its first token, and attempts that go on behind it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.flow.talk import PROMPT, ROUTES, Fleet, Json, body_for, start_fleet, texts
from tests.flow.talk import Answer as Read
from tests.support.engines import expected, expected_chat

TOKENS = 12
SETTINGS: dict[str, dict[str, Any]] = {
    "retries": {"early_head_s": 0.1, "attempts": 2},
    "upstream": {"first_token_s": 0.6, "first_token_after_prefill_s": 0.6},
}


async def hangs(fleet: Fleet, count: int) -> None:
    for decode in fleet.decodes:
        await decode.fault("hang", before_head=True, count=count)


def right(route: str) -> str:
    said = [{"role": "user", "content": PROMPT}]
    return expected_chat(said, TOKENS) if "chat" in route else expected(PROMPT, TOKENS)


async def post(fleet: Fleet, route: str, **more: Any) -> tuple[float, Read]:
    """An answer, and how long its head took, in seconds."""
    body: Json = body_for(route, tokens=TOKENS, **more)
    began = asyncio.get_running_loop().time()
    async with fleet.http.post(route, json=body) as answer:
        head_s = asyncio.get_running_loop().time() - began
        return head_s, Read(answer.status, answer.headers, await answer.read())


@pytest.mark.parametrize("route", ROUTES)
async def test_the_head_comes_early_and_the_answer_from_the_second_attempt(route: str) -> None:
    async with start_fleet(settings=SETTINGS) as fleet:
        await hangs(fleet, 1)
        head_s, answer = await post(fleet, route, stream=True)
        assert answer.status == 200
        assert texts(route, answer, True) == {0: right(route)}
        line = fleet.proxy.lines[-1]
        assert line["attempts"] == 2
        assert head_s * 1e3 < line["ttft_ms"]


async def test_branches_too() -> None:
    async with start_fleet(settings=SETTINGS) as fleet:
        await hangs(fleet, 1)
        _, answer = await post(fleet, "/v1/completions", stream=True, n=2)
        assert texts("/v1/completions", answer, True) == {
            0: right("/v1/completions"),
            1: right("/v1/completions"),
        }


@pytest.mark.parametrize("n", [1, 2])
async def test_when_all_attempts_fail_the_stream_ends_with_an_error_event(n: int) -> None:
    async with start_fleet(settings=SETTINGS) as fleet:
        await hangs(fleet, 100)
        _, answer = await post(fleet, "/v1/completions", stream=True, n=n)
        assert answer.status == 200
        assert [event["error"]["code"] for event in answer.events] == ["first_token_timeout"]


async def test_an_answer_that_is_not_streamed_keeps_its_own_status() -> None:
    async with start_fleet(settings=SETTINGS) as fleet:
        await hangs(fleet, 100)
        _, answer = await post(fleet, "/generate", stream=False)
        assert answer.status == 504
