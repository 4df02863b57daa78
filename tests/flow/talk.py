"""A client's side of the conversation, and the fleets that these tests talk to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.support.engines import InProcess, SimEngine, start_engine
from tests.support.proxies import Proxy, start_proxy

GENERATE, CHAT, COMPLETIONS = "/generate", "/v1/chat/completions", "/v1/completions"
ROUTES = (GENERATE, CHAT, COMPLETIONS)
PROMPT = "Let me tell you a story about the dragon"
Json = dict[str, Any]


@dataclass(frozen=True)
class Fleet:
    """A proxy, and the engines behind it."""

    proxy: Proxy
    prefills: list[InProcess]
    decodes: list[InProcess]

    @property
    def http(self) -> aiohttp.ClientSession:
        return self.proxy.http

    @property
    def engines(self) -> list[InProcess]:
        return [*self.prefills, *self.decodes]


@asynccontextmanager
async def start_fleet(
    prefills: int = 1,
    decodes: int = 1,
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    prefill_config: Mapping[str, Any] | None = None,
    **config: Any,
) -> AsyncIterator[Fleet]:
    """A fleet in this process; `config` is the engines', `prefill_config` the prefills' alone."""
    async with AsyncExitStack() as stack:
        started = {
            role: [await stack.enter_async_context(start_engine(role, **more)) for _ in range(count)]
            for role, count, more in (
                ("prefill", prefills, {**config, **(prefill_config or {})}),
                ("decode", decodes, config),
            )
        }
        proxy = await stack.enter_async_context(
            start_proxy(started["prefill"], started["decode"], **(settings or {}))
        )
        yield Fleet(proxy, started["prefill"], started["decode"])


@asynccontextmanager
async def alone(**config: Any) -> AsyncIterator[aiohttp.ClientSession]:
    """A session with a regular engine, which knows all by itself: what a pair must look like."""
    async with start_engine("regular", **config) as engine, aiohttp.ClientSession(engine.url) as http:
        yield http


@dataclass(frozen=True)
class Answer:
    """One answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def events(self) -> list[Json]:
        """The JSON of each event; a stream must end with [DONE], and only there."""
        blocks = self.raw.split(b"\n\n")
        assert blocks[-1] == b"", f"half an event: {blocks[-1]!r}"
        assert blocks[-2] == b"data: [DONE]", blocks[-2]
        assert all(block.startswith(b"data: ") for block in blocks[:-1]), self.raw
        return [json.loads(block[6:]) for block in blocks[:-2]]


async def ask(http: aiohttp.ClientSession, path: str, body: Any, **headers: str) -> Answer:
    """Posts a body and reads the answer to its proper end."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with http.post(path, json=body, headers=named) as answer:
        return Answer(answer.status, answer.headers, await answer.read())


def body_for(route: str, prompt: str = PROMPT, tokens: int = 8, **more: Any) -> Json:
    """A body that asks `route` for so many tokens."""
    if route == GENERATE:
        return {"text": prompt, "sampling_params": {"max_new_tokens": tokens}, **more}
    asked = {"messages": [{"role": "user", "content": prompt}]} if route == CHAT else {"prompt": prompt}
    return {"model": "simulated", **asked, "max_tokens": tokens, **more}


def texts(route: str, answer: Answer, streamed: bool, *, disjoint: bool = False) -> dict[int, str]:
    """The texts of an answer, by index."""
    if streamed:
        return _streamed_texts(route, answer.events, disjoint)
    if route == GENERATE:
        found = answer.json if isinstance(answer.json, list) else [answer.json]
        return {index: one["text"] for index, one in enumerate(found)}
    choices = answer.json["choices"]
    return {one["index"]: one["message"]["content"] if route == CHAT else one["text"] for one in choices}


def _streamed_texts(route: str, events: list[Json], disjoint: bool) -> dict[int, str]:
    found: dict[int, str] = {}
    for event in events:
        if route == GENERATE:
            index = event.get("index", 0)
            found[index] = (found.get(index, "") if disjoint else "") + event["text"]
            continue
        for choice in event["choices"]:
            piece = choice["delta"].get("content") if route == CHAT else choice["text"]
            found[choice["index"]] = found.get(choice["index"], "") + (piece or "")
    return found


async def right_text(http: aiohttp.ClientSession, route: str, body: Json) -> None:
    """Asks, and holds the text against the oracle."""
    from tests.support.engines import expected
    from workers.engine.oracle import chat_prompt

    answer = await ask(http, route, body)
    assert answer.status == 200, answer.raw
    prompt = chat_prompt(body["messages"]) if route == CHAT else body.get("text", body.get("prompt"))
    tokens = body["sampling_params"]["max_new_tokens"] if route == GENERATE else body["max_tokens"]
    told = texts(route, answer, bool(body.get("stream")))
    assert told == {0: expected(prompt, tokens)}


async def fault_all(engines: Sequence[SimEngine], kind: str, **fields: Any) -> None:
    """Arms the same fault everywhere."""
    for engine in engines:
        await engine.fault(kind, **fields)


class Opened:
    """A stream that is being read, event by event."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.events: list[Json] = []
        self.done = False

    async def next(self, limit_s: float = 10.0) -> Json | None:
        """The next event; None for [DONE]."""
        async with asyncio.timeout(limit_s):
            line = b""
            while not line.startswith(b"data:"):
                line = await self.response.content.readline()
                assert line, "the stream ended without [DONE]"
        data = line[5:].strip()
        if data == b"[DONE]":
            self.done = True
            return None
        event: Json = json.loads(data)
        self.events.append(event)
        return event

    async def rest(self) -> list[Json]:
        """All events, to the end of the body."""
        while await self.next():
            pass
        left = (await self.response.content.read()).strip()
        assert not left, left
        return self.events


@asynccontextmanager
async def opened(http: aiohttp.ClientSession, path: str, body: Json) -> AsyncIterator[Opened]:
    """A stream, opened and not read."""
    async with http.post(path, json={**body, "stream": True}) as response:
        assert response.status == 200, await response.read()
        yield Opened(response)
