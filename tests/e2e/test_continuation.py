"""One decode of four dies with SIGKILL under live streams: none breaks, and every text is the right one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

import aiohttp
import pytest

from tests.e2e.test_openai_sdk import proxy_process
from tests.flow.talk import CHAT, COMPLETIONS, GENERATE, Json, Opened, body_for, opened
from tests.support.engines import (
    BOTH_GENERATIONS,
    OwnProcess,
    expected,
    expected_chat,
    idle,
    start_engine_process,
)

TOKENS = 40
FORMS = {
    "generate, cumulative": (GENERATE, False),
    "generate, disjoint": (GENERATE, True),
    "chat": (CHAT, False),
    "completions": (COMPLETIONS, False),
}


def told(route: str, events: list[Json], disjoint: bool) -> str:
    """The text of a stream."""
    if route == GENERATE:
        return "".join(one["text"] for one in events) if disjoint else str(events[-1]["text"])
    choices = [one["choices"][0] for one in events]
    return "".join((one["delta"].get("content") or "") if route == CHAT else one["text"] for one in choices)


def right(route: str, prompt: str) -> str:
    """The text that it must have."""
    if route == CHAT:
        return expected_chat([{"role": "user", "content": prompt}], TOKENS)
    return expected(prompt, TOKENS)


async def survive(routes: Sequence[str], disjoint: bool, version: str, streams: int, pace_ms: int) -> None:
    """Opens so many streams, kills a decode under them, and holds each text against the oracle."""
    together = asyncio.Barrier(streams + 1)
    async with AsyncExitStack() as stack:
        config: Json = {"engine_version": version, "incremental_streaming_output": disjoint}

        async def start(role: str) -> OwnProcess:
            made = start_engine_process(role, decode_ms_per_token=pace_ms, **config)
            return await stack.enter_async_context(made)

        prefills = [await start("prefill") for _ in range(2)]
        decodes = [await start("decode") for _ in range(4)]
        flags = [flag for one in prefills for flag in ("--prefill", one.url, str(one.bootstrap_port))] + [
            flag for one in decodes for flag in ("--decode", one.url)
        ]
        url = await stack.enter_async_context(proxy_process(*flags, "--log-level", "error"))
        connector = aiohttp.TCPConnector(limit=0)
        http = await stack.enter_async_context(aiohttp.ClientSession(url, connector=connector))
        broken: list[str] = []

        async def stream(number: int) -> None:
            route, prompt = routes[number % len(routes)], f"story number {number} of the dragon"
            async with opened(http, route, body_for(route, prompt, tokens=TOKENS)) as one:
                for _ in range(3):
                    await one.next(60)
                await together.wait()
                events = await _rest(one)
            if not one.done or any("error" in event for event in events):
                broken.append(f"{number}: {events[-1]}")
            elif (text := told(route, events, disjoint)) != right(route, prompt):
                broken.append(f"{number}: {text!r}")

        async with asyncio.TaskGroup() as group:
            for number in range(streams):
                group.create_task(stream(number))
            await together.wait()
            await decodes[0].kill()
        assert broken == [], f"{len(broken)} of {streams} streams: {broken[:3]}"
        async with http.get("/metrics") as answer:
            continued = [
                line for line in (await answer.text()).splitlines() if "continuations_total{" in line
            ]
        assert sum(float(line.rpartition(" ")[2]) for line in continued) >= streams / 8, continued
        assert not [line for line in continued if "refused" in line]
        await idle(*prefills, *decodes[1:])


async def _rest(one: Opened) -> list[Json]:
    while await one.next(60):
        pass
    return one.events


@pytest.mark.timeout(60)
async def test_64_streams_outlive_a_decode() -> None:
    await survive([GENERATE, CHAT, COMPLETIONS], False, "0.5.23", streams=64, pace_ms=20)


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("version", BOTH_GENERATIONS)
async def test_512_streams_outlive_a_decode(form: str, version: str) -> None:
    route, disjoint = FORMS[form]
    await survive([route], disjoint, version, streams=512, pace_ms=150)
