"""The OpenAI SDK, as its users have it, against real processes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import openai
import pytest

from tests.support.engines import expected, expected_chat, start_engine_process
from tests.support.etcd import free_ports
from tests.support.proxies import eventually

MESSAGES = [{"role": "user", "content": "Tell me of the dragon"}]


@asynccontextmanager
async def proxy_process(*flags: str) -> AsyncIterator[str]:
    """`python -m proxy` on a free port; its url."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "proxy", "--host", "127.0.0.1", "--port", str(port), *flags]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    async def ready() -> bool:
        try:
            async with aiohttp.ClientSession() as http, http.get(f"{url}/readiness") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    try:
        await eventually(ready, 20)
        yield url
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0


@asynccontextmanager
async def served_model() -> AsyncIterator[openai.AsyncOpenAI]:
    """A client of a proxy in front of a pair."""
    async with (
        start_engine_process("prefill") as prefill,
        start_engine_process("decode") as decode,
        proxy_process(
            "--prefill",
            prefill.url,
            str(prefill.bootstrap_port),
            "--decode",
            decode.url,
            "--log-level",
            "error",
        ) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


async def test_the_sdk_gets_models_chats_completions_and_streams_with_usage() -> None:
    async with served_model() as client:
        models = [model.id async for model in client.models.list()]
        assert models == ["simulated"]
        model = models[0]

        chat = await client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=12)
        assert chat.choices[0].message.content == expected_chat(MESSAGES, 12)
        assert chat.usage is not None
        assert chat.usage.completion_tokens == 12

        completion = await client.completions.create(model=model, prompt="Once upon", max_tokens=9)
        assert completion.choices[0].text == expected("Once upon", 9)

        text, usage = "", None
        stream = await client.chat.completions.create(
            model=model, messages=MESSAGES, max_tokens=15, stream=True, stream_options={"include_usage": True}
        )
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                text += choice.delta.content or ""
        assert text == expected_chat(MESSAGES, 15)
        assert usage is not None
        assert usage.completion_tokens == 15

        several = await client.completions.create(model=model, prompt=["a b", "c"], max_tokens=4, n=2)
        assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
        wanted = [expected("a b", 4)] * 2 + [expected("c", 4)] * 2
        assert [choice.text for choice in several.choices] == wanted


async def test_the_sdk_raises_its_own_error_for_bad_input() -> None:
    async with served_model() as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model="simulated", messages=MESSAGES, n=1000)
        assert refused.value.param == "n"
