"""Chats whose streams tell token ids, as an engine newer than 0.5.23 may: they are continued by these."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.flow.scripted import DONE, EVENT_HEAD, LAST, Visit, chunked, start_worker, whole
from tests.flow.talk import CHAT, Answer, Json, ask
from tests.support.proxies import Proxy, start_proxy

PROMPT_IDS = [11, 12, 13]
# A text that shows nothing yet is the first half of a character.
TOKENS = [(1, "once"), (2, " upon"), (3, ""), (4, "é"), (5, " time")]
# What a chat without messages is told, with and without a member `input_ids` (0.5.23, its own words).
NOT_A_LIST = "{'type': 'list_type', 'loc': ('body', 'input_ids'), 'msg': 'Input should be a valid list'}"
MISSING = "{'type': 'missing', 'loc': ('body', 'messages'), 'msg': 'Field required'}"


@dataclass
class Engine:
    """What two workers do, and have seen."""

    takes_ids: bool = True
    tells_prompt: bool = True
    break_after: Sequence[int] = ()
    """Tokens after which each stream breaks, in order; then none does."""
    whole_ids: Sequence[int] = range(1, 6)
    chats: list[Json] = field(default_factory=list)
    probes: int = 0
    tokenized: list[Json] = field(default_factory=list)

    async def decode(self, visit: Visit) -> None:
        if await self._answered(visit):
            return
        body = json.loads(visit.body)
        self.chats.append(body)
        begun = len(body["input_ids"]) - len(PROMPT_IDS) if "input_ids" in body else 0
        await self._stream(visit, begun, self.break_after[len(self.chats) - 1 :])

    async def prefill(self, visit: Visit) -> None:
        if not await self._answered(visit):
            await visit.say(whole(b"{}"))

    async def _answered(self, visit: Visit) -> bool:
        """Whether it was a question beside the chats."""
        body = json.loads(visit.body)
        if visit.head.startswith(b"POST /tokenize "):
            self.tokenized.append(body)
            await visit.say(whole(json.dumps({"tokens": PROMPT_IDS}).encode()))
        elif "messages" not in body:
            assert body == {"input_ids": 0}, "nothing that an engine could begin to generate from"
            self.probes += 1
            told = f"[{MISSING}, {NOT_A_LIST}]" if self.takes_ids else f"[{MISSING}]"
            await visit.say(whole(json.dumps({"message": told}).encode(), status=b"400 Bad Request"))
        else:
            return False
        return True

    async def _stream(self, visit: Visit, begun: int, breaks: Sequence[int]) -> None:
        events = [chunk({"role": "assistant", "content": ""})]
        for at, (token, text) in enumerate(TOKENS[begun:]):
            prompt = {"prompt_token_ids": PROMPT_IDS} if self.tells_prompt and not at else {}
            events.append(chunk({"content": text} if text else {}, token_ids=[token], **prompt))
        if breaks:
            await visit.say(EVENT_HEAD, chunked(*events[: breaks[0] - begun + 1]))
            visit.reset()
            return
        end = chunk({}, finish_reason="stop")
        await visit.say(EVENT_HEAD, chunked(*events, end, DONE), LAST)


def chunk(delta: Json, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None, **more}
    whole_chunk = {"id": "c", "created": 1, "model": "m", "choices": [choice]}
    return b"data: %b\n\n" % json.dumps(whole_chunk).replace(": ", ":").encode()


@asynccontextmanager
async def start(engine: Engine, version: str | None = "0.6.0", **settings: Any) -> AsyncIterator[Proxy]:
    async with AsyncExitStack() as stack:
        prefill = await stack.enter_async_context(start_worker("prefill", engine.prefill))
        decode = await stack.enter_async_context(start_worker("decode", engine.decode))
        for one in (prefill, decode):
            one.worker = replace(one.worker, engine_version=version)
        workers: list[Any] = [prefill, decode]
        yield await stack.enter_async_context(start_proxy(workers[:1], workers[1:], **settings))


BODY: Json = {
    "model": "m",
    "messages": [{"role": "user", "content": "hi"}],
    "stream": True,
    "max_tokens": 9,
    "return_token_ids": True,
}


def told(answer: Answer) -> tuple[str, list[int]]:
    choices = [one["choices"][0] for one in answer.events]
    text = "".join(one["delta"].get("content") or "" for one in choices)
    return text, [token for one in choices for token in one.get("token_ids", [])]


@pytest.mark.parametrize("tells_prompt", [True, False], ids=["prompt told", "prompt asked for"])
@pytest.mark.parametrize("after", [1, 2, 3, 4])
async def test_a_chat_whose_ids_are_told_goes_on_by_them(after: int, tells_prompt: bool) -> None:
    engine = Engine(tells_prompt=tells_prompt, break_after=[after])
    async with start(engine, retries={"continuation": "exact"}) as proxy:
        got = await ask(proxy.http, CHAT, BODY)
        assert told(got) == ("once upon\u00e9 time", [1, 2, 3, 4, 5])
        roles = [one["choices"][0]["delta"].get("role") for one in got.events]
        assert roles.count("assistant") == 1
        assert sum("prompt_token_ids" in one["choices"][0] for one in got.events) == tells_prompt
        # Of a character that is not complete all tokens are generated again.
        whole_tokens = 2 if after == 3 else after
        again = engine.chats[1]
        assert again["input_ids"] == [*PROMPT_IDS, *[token for token, _ in TOKENS[:whole_tokens]]]
        assert again["messages"] == BODY["messages"]
        assert again["max_tokens"] == 9 - whole_tokens
        assert proxy.lines[0]["continued"] == ["exact"]
        assert bool(engine.tokenized) is not tells_prompt


async def test_workers_are_asked_once_whether_they_take_ids() -> None:
    engine = Engine(break_after=[1, 3, 4])
    async with start(engine) as proxy:
        for _ in range(2):
            await ask(proxy.http, CHAT, BODY)
        assert proxy.lines[0]["continued"] == ["exact"] * 3
        assert engine.probes == 1


@pytest.mark.parametrize(
    ("takes_ids", "version", "probes"), [(False, "0.5.2", 1), (True, None, 0)], ids=["refused", "unknown"]
)
async def test_ids_are_never_sent_to_a_version_that_may_not_know_them(
    takes_ids: bool, version: str | None, probes: int
) -> None:
    engine = Engine(takes_ids=takes_ids, break_after=[2])
    async with start(engine, version) as proxy:
        for _ in range(2):
            engine.chats.clear()
            await ask(proxy.http, CHAT, BODY)
            again = engine.chats[1]
            assert "input_ids" not in again
            assert again["continue_final_message"] is True
        assert engine.probes == probes
        assert proxy.lines[0]["continued"] == ["approximate"]


async def test_a_chat_with_images_is_more_than_its_ids() -> None:
    parts = [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    engine = Engine(break_after=[2])
    async with start(engine) as proxy:
        await ask(proxy.http, CHAT, {**BODY, "messages": [{"role": "user", "content": parts}]})
        assert "input_ids" not in engine.chats[1]
        assert proxy.lines[0]["continued"] == ["approximate"]
