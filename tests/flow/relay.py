"""A network path from decodes to a prefill's bootstrap server, on which one decode's bytes can vanish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from proxy.roster import Worker
from tests.support.engines import InProcess


class Relay:
    """Passes bytes on both ways."""

    def __init__(self, prefill: InProcess) -> None:
        self._prefill = prefill
        self.port = 0
        self.swallowed: str | None = None
        """Mooncake session, which is a decode's instance: its requests go nowhere; "": all do."""

    @property
    def worker(self) -> Worker:
        """The prefill as it is found through this path."""
        return replace(self._prefill.worker, bootstrap_port=self.port)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a decode; each decode has its own."""
        back, onward = await asyncio.open_connection("127.0.0.1", self._prefill.bootstrap_port)
        answers = asyncio.ensure_future(_pass_on(back, writer))
        try:
            with suppress(ConnectionError):
                while data := await reader.read(65536):
                    if self.swallowed is None or self.swallowed.encode() not in data:
                        onward.write(data)
        finally:
            onward.close()
            writer.close()
            answers.cancel()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)


@asynccontextmanager
async def relayed(prefill: InProcess) -> AsyncIterator[Relay]:
    """A path to the bootstrap server of `prefill`."""
    relay = Relay(prefill)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
