"""Five rolling restarts on one inherited listener, under load with live streams: nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress

import aiohttp
import pytest

from tests.flow.talk import GENERATE, PROMPT, Opened, body_for
from tests.support.engines import expected, start_engine
from tests.support.proxies import eventually

RESTARTS = 5


async def launch(listener: socket.socket, *flags: str) -> asyncio.subprocess.Process:
    """A proxy that finds `listener` at fd 3, as systemd would leave it."""
    ours = listener.fileno()
    program = (
        "import os,sys; os.dup2(int(sys.argv[1]), 3); os.set_inheritable(3, True); "
        "os.execv(sys.executable, [sys.executable, '-m', 'proxy', *sys.argv[2:]])"
    )
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(ours), *flags,
        pass_fds=[ours], env={**os.environ, "LISTEN_FDS": "1"},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.timeout(120)
async def test_five_rolling_restarts_under_load_lose_nothing() -> None:
    async with (
        start_engine("prefill") as prefill,
        start_engine("decode", decode_ms_per_token=20) as decode,
    ):
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        flags = [
            "--pd-disaggregation", "--prefill", prefill.url, str(prefill.bootstrap_port),
            "--decode", decode.url, "--log-level", "error",
            "--server-lame_duck_s".replace("_", "-"), "0.5",
        ]  # fmt: skip
        ended, served = asyncio.Event(), {"kept": 0, "fresh": 0, "stream": 0}

        async def ask(http: aiohttp.ClientSession, kind: str) -> None:
            async with http.post(GENERATE, json=body_for(GENERATE, tokens=8)) as answer:
                assert answer.status == 200, await answer.text()
                assert (await answer.json())["text"] == expected(PROMPT, 8)
            served[kind] += 1

        async def kept() -> None:
            async with aiohttp.ClientSession(url) as http:
                while not ended.is_set():
                    await ask(http, "kept")

        async def fresh() -> None:
            while not ended.is_set():
                async with aiohttp.ClientSession(url) as http:
                    await ask(http, "fresh")

        async def stream() -> None:
            while not ended.is_set():
                async with aiohttp.ClientSession(url) as http:
                    body = body_for(GENERATE, tokens=100, stream=True)
                    async with http.post(GENERATE, json=body) as response:
                        assert response.status == 200
                        events = await Opened(response).rest()
                        assert events[-1]["text"] == expected(PROMPT, 100)
                served["stream"] += 1

        process = await launch(listener, *flags)
        started = [process]
        try:
            async with asyncio.TaskGroup() as clients:
                for client in (kept, kept, fresh, fresh, stream, stream, stream):
                    clients.create_task(client())
                for _ in range(RESTARTS):
                    before = dict(served)
                    await eventually(lambda before=before: all(served[k] > before[k] for k in served), 30)
                    successor = await launch(listener, *flags)
                    started.append(successor)
                    process.send_signal(signal.SIGTERM)
                    assert await asyncio.wait_for(process.wait(), 30) == 0
                    process = successor
                before = dict(served)
                await eventually(lambda: all(served[k] > before[k] for k in served), 30)
                ended.set()
        finally:
            ended.set()
            for one in started:
                if one.returncode is None:
                    with suppress(ProcessLookupError):
                        one.send_signal(signal.SIGTERM)
                    await one.wait()
            listener.close()
