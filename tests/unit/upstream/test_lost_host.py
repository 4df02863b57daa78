"""Connections to workers notice that a host has vanished; tests/slurm cuts off a real one."""

from __future__ import annotations

import asyncio
import socket

from proxy.roster import Role, Worker
from proxy.upstream.carriers import CarrierRules, Carriers
from proxy.upstream.lost_host import LOST_HOST_S


async def test_a_vanished_host_breaks_a_connection_in_time_whether_it_was_asked_or_not() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        carriers = Carriers(CarrierRules(), asyncio.get_running_loop())
        connection = await carriers.connect(Worker("d", f"http://127.0.0.1:{port}", Role.DECODE))
        connected = connection.transport.get_extra_info("socket")

        def option(name: int) -> int:
            value: int = connected.getsockopt(socket.IPPROTO_TCP, name)
            return value

        assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        silent_s = option(socket.TCP_KEEPIDLE) + option(socket.TCP_KEEPINTVL) * option(socket.TCP_KEEPCNT)
        assert silent_s == LOST_HOST_S
        assert option(socket.TCP_USER_TIMEOUT) == LOST_HOST_S * 1000
        connection.abort()
