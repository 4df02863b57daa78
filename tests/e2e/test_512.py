"""512 streams at once through a real proxy process: every text is the right one."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.e2e.test_openai_sdk import proxy_process
from tests.flow.talk import GENERATE, body_for, opened
from tests.support.engines import expected, idle, start_engine_process

STREAMS = 512


@pytest.mark.timeout(50)
async def test_512_streams_at_once_each_end_with_their_own_text() -> None:
    together = asyncio.Barrier(STREAMS)
    async with (
        start_engine_process("prefill") as prefill,
        start_engine_process("decode", decode_ms_per_token=20) as decode,
        proxy_process(
            "--prefill", prefill.url, str(prefill.bootstrap_port), "--decode", decode.url,
            "--log-level", "error",
        ) as url,
        aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0)) as http,
    ):  # fmt: skip

        async def stream(number: int) -> None:
            prompt = f"story number {number} of the dragon"
            async with opened(http, GENERATE, body_for(GENERATE, prompt, tokens=16)) as one:
                await one.next(30)
                # All have begun before any is read on: they are open at once.
                await together.wait()
                assert (await one.rest())[-1]["text"] == expected(prompt, 16)

        async with asyncio.TaskGroup() as group:
            for number in range(STREAMS):
                group.create_task(stream(number))
        await idle(prefill, decode)
