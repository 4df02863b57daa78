"""Connections to workers: none is forgotten while it is being opened."""

from __future__ import annotations

import asyncio

from proxy.roster import Role, Worker
from proxy.upstream.carriers import CarrierRules, Carriers


async def test_an_address_is_not_forgotten_while_a_connection_to_it_is_opened() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        worker = Worker("d", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", Role.DECODE)
        carriers = Carriers(CarrierRules(), asyncio.get_running_loop())
        asked = asyncio.ensure_future(carriers.is_there(worker))
        await asyncio.sleep(0)
        assert not carriers.open, "it is still being opened"
        carriers.sweep(0.0)
        assert await asked
        assert (carriers.open, carriers.idle) == (1, 1)
        carriers.close()
        await asyncio.sleep(0)
        carriers.sweep(0.0)
        assert carriers.open_to(worker) == 0
