"""A listening port with an aiohttp application behind it, that can be shut, opened again and killed."""

from __future__ import annotations

import socket

from aiohttp import web

_BACKLOG = 4096
_SHUTDOWN_S = 0.2


class Listener:
    """One port."""

    def __init__(self, app: web.Application, keep_alive_s: float) -> None:
        self._runner = web.AppRunner(
            app,
            handler_cancellation=True,
            keepalive_timeout=keep_alive_s,
            access_log=None,
            shutdown_timeout=_SHUTDOWN_S,
        )
        self._site: web.SockSite | None = None

    async def open(self, host: str, port: int) -> int:
        """Listens.

        Returns:
            The port, which 0 leaves to the system.

        Raises:
            OSError: it is taken, or the address is not of this host.
        """
        if self._runner.server is None:
            await self._runner.setup()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, port))
            listening.setblocking(False)
            self._site = web.SockSite(self._runner, listening, backlog=_BACKLOG)
            await self._site.start()
        except OSError:
            listening.close()
            raise
        return int(listening.getsockname()[1])

    async def shut(self) -> None:
        """No new connections; open ones live on."""
        if self._site is not None:
            site, self._site = self._site, None
            await site.stop()

    async def kill(self) -> None:
        """No new connections, and the open ones are cut in the middle of whatever they carry."""
        await self.shut()
        server = self._runner.server
        for connection in list(server.connections) if server is not None else []:
            if connection.transport is not None:
                connection.transport.abort()

    async def close(self) -> None:
        """Ends it for good."""
        await self._runner.cleanup()
