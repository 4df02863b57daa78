"""Who hears a worker in its connection's stead while a stream goes as it should."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.upstream.connection import UpstreamConnection


class Tap(asyncio.Protocol):
    """Takes reads straight from the transport, so that a token passes nothing that it needs not.

    `data_received` may keep a read that is plain (see `PLAIN_STARTS`); every other one it gives to the
    connection's, which takes the transport back while it waits for the rest of a chunk.
    """

    __slots__ = ("connection", "heard_at")

    connection: UpstreamConnection
    """Whose transport it is; set by `UpstreamConnection.divert_to`."""
    heard_at: float
    """When it last heard anything, this way or another; monotonic seconds."""

    def eof_received(self) -> None:
        """asyncio: the worker sends no more."""
        self.connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self.connection.connection_lost(exc)
