"""Clients that ask until they are told to stop."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from tests.support.proxies import Proxy


async def ask(proxy: Proxy, tokens: int = 2, prompt: str = "hello", stream: bool = False) -> int:
    """One request, read to its end; the status."""
    body = {"text": prompt, "stream": stream, "sampling_params": {"max_new_tokens": tokens}}
    async with proxy.http.post("/generate", json=body) as answer:
        await answer.read()
        return answer.status


@asynccontextmanager
async def clients(
    proxy: Proxy, count: int, tokens: int, pause_s: float = 0.0, stream: bool = True
) -> AsyncIterator[None]:
    """`count` of them, each with a prompt of its own every time, until the block ends; then they are gone."""
    numbers = itertools.count()

    async def client() -> None:
        while True:
            try:
                await ask(proxy, tokens, f"story {next(numbers)}", stream)
            except aiohttp.ClientError:
                await asyncio.sleep(0.2)
            await asyncio.sleep(pause_s)

    async with asyncio.TaskGroup() as group:
        running = [group.create_task(client()) for _ in range(count)]
        try:
            yield
        finally:
            for one in running:
                one.cancel()
