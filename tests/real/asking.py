"""Requests to real servers, and what of their answers tests compare."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from tests.real.fleet import Fleet, RealWorker

PROMPTS = ["hello world", "The quick brown fox", "a b c d e f g", "prefill and decode servers"]
GREEDY = {"temperature": 0, "max_new_tokens": 24, "ignore_eos": True}
OPENAI = {"model": "tiny", "temperature": 0, "max_tokens": 24, "ignore_eos": True}
CHAT = "/v1/chat/completions"


async def ask(http: aiohttp.ClientSession, url: str, path: str, body: dict[str, Any]) -> Any:
    """An answer that must be good."""
    async with http.post(url + path, json=body) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def tell(http: aiohttp.ClientSession, url: str, path: str, body: dict[str, Any]) -> AsyncIterator[Any]:
    """The events of a stream as they come; it must end with [DONE], and tell no error."""
    last = b""
    async with http.post(url + path, json=body | {"stream": True}) as answer:
        assert answer.status == 200, await answer.text()
        async for line in answer.content:
            if line.startswith(b"data: "):
                last = line[6:].strip()
                if last != b"[DONE]":
                    event = json.loads(last)
                    assert "error" not in event, event
                    yield event
    assert last == b"[DONE]"


async def events(http: aiohttp.ClientSession, url: str, path: str, body: dict[str, Any]) -> list[Any]:
    """All events of a stream."""
    return [event async for event in tell(http, url, path, body)]


def told_text(path: str, body: Any) -> str:
    """The text of a whole answer."""
    if path == "/generate":
        return str(body["text"])
    return choice_texts(path, body)[0]


def choice_texts(path: str, body: Any) -> list[str]:
    """The texts of all choices of a whole answer."""
    return [str(one["message"]["content"] if path == CHAT else one["text"]) for one in body["choices"]]


def streamed_text(path: str, found: list[Any], index: int = 0) -> str:
    """The text of a stream, or of one choice or one of a batch of it."""
    if path == "/generate":
        return str([event for event in found if event.get("index", 0) == index][-1]["text"])
    choices = [one for event in found for one in event["choices"] if one["index"] == index]
    if path == CHAT:
        return "".join(one["delta"].get("content") or "" for one in choices)
    return "".join(one["text"] for one in choices)


def body_for(path: str, prompt: str) -> dict[str, Any]:
    """A greedy request."""
    if path == "/generate":
        return {"text": prompt, "sampling_params": GREEDY}
    if path == CHAT:
        return {**OPENAI, "messages": [{"role": "user", "content": prompt}]}
    return {**OPENAI, "prompt": prompt}


async def plain_text(fleet: Fleet, http: aiohttp.ClientSession, prompt: str) -> str:
    """What a plain server makes of it."""
    body = body_for("/generate", prompt)
    return told_text("/generate", await ask(http, fleet.plain.url, "/generate", body))


async def until_ready(proxy: str, http: aiohttp.ClientSession, workers: int) -> None:
    """Until the proxy listens, and has so many healthy workers."""
    deadline_s = time.monotonic() + 400
    told: Any = "it does not listen"
    while True:
        try:
            async with http.get(proxy + "/readiness") as answer:
                told = await answer.json()
                if answer.status == 200 and told["healthy_workers"] >= workers:
                    return
        except aiohttp.ClientConnectionError:
            pass
        assert time.monotonic() < deadline_s, told
        await asyncio.sleep(0.2)


async def until_listening(proxy: str, http: aiohttp.ClientSession) -> None:
    """Until the proxy listens, whatever its workers are."""
    deadline_s = time.monotonic() + 60
    while True:
        try:
            async with http.get(proxy + "/liveness"):
                return
        except aiohttp.ClientConnectionError:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.1)


async def busy(http: aiohttp.ClientSession, *workers: RealWorker) -> int:
    """Requests that these engines know of, running or between two states."""
    found = 0
    for worker in workers:
        async with http.get(worker.url + "/v1/loads", params={"include": "core,disagg,queues"}) as answer:
            for rank in (await answer.json())["loads"]:
                between = rank["disaggregation"]
                queues = [count for name, count in between.items() if name.endswith("_queue_reqs")]
                found += rank["num_running_reqs"] + rank["num_waiting_reqs"] + sum(queues)
    return found


async def idle_within(http: aiohttp.ClientSession, limit_s: float, *workers: RealWorker) -> None:
    """Until these engines know of no request."""
    since_s = time.monotonic()
    while left := await busy(http, *workers):
        assert time.monotonic() - since_s < limit_s, f"{left} requests are left after {limit_s} s"
        await asyncio.sleep(0.1)


async def metric(http: aiohttp.ClientSession, url: str, name: str) -> dict[str, float]:
    """A metric's samples, by what stands in the braces."""
    async with http.get(url + "/metrics") as answer:
        lines = (await answer.text()).splitlines()
    found = {}
    for line in lines:
        if line.startswith((name + " ", name + "{")):
            labels, value = line.removeprefix(name).rsplit(" ", 1)
            found[labels] = float(value)
    return found
