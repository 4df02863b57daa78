"""The door uses nothing but its transport, so TLS can stand in front of it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from proxy.edge.connection import ClientConnection
from tests.flow.talk import PROMPT, ROUTES, Fleet, ask, body_for, start_fleet, texts
from tests.support.certs import Authority
from tests.support.engines import expected, expected_chat
from tests.support.proxies import eventually

TOKENS = 40


@asynccontextmanager
async def behind_tls(fleet: Fleet, folder: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """A session that reaches the fleet's door through TLS."""
    authority = Authority(folder)
    issued = authority.issue("proxy", hosts=["127.0.0.1"])
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(issued.certfile, issued.keyfile)
    door = fleet.proxy.service.door
    server = await asyncio.get_running_loop().create_server(
        lambda: ClientConnection(door), "127.0.0.1", 0, ssl=serving
    )
    trusting = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(authority.cafile)))
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, aiohttp.ClientSession(url, connector=trusting) as http:
        yield http


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_is_the_same_through_tls(route: str, stream: bool, tmp_path: Path) -> None:
    async with start_fleet() as fleet, behind_tls(fleet, tmp_path) as http:
        for _ in range(2):  # the second on the same connection
            answer = await ask(http, route, body_for(route, tokens=TOKENS, stream=stream))
            said = [{"role": "user", "content": PROMPT}]
            right = expected_chat(said, TOKENS) if "chat" in route else expected(PROMPT, TOKENS)
            assert texts(route, answer, stream) == {0: right}
        async with http.get("/health") as answer:
            assert answer.status == 200


async def test_a_client_that_leaves_through_tls_frees_both_legs(tmp_path: Path) -> None:
    async with start_fleet(decode_ms_per_token=50) as fleet, behind_tls(fleet, tmp_path) as http:
        body = body_for("/generate", tokens=1000, stream=True)
        async with http.post("/generate", json=body) as answer:
            await answer.content.readany()
            assert fleet.proxy.service.corridor.in_flight == 1
            answer.close()
        await eventually(lambda: fleet.proxy.idle)
