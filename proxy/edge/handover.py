"""Hands a client's connection to the control plane, with the bytes read so far."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxy.edge.door import Door


class _HandedOver:
    """aiohttp has no read timeout: a deadline of ours ends what takes too long."""

    __slots__ = ("_deadline", "_door", "_transport")

    def __init__(self, transport: asyncio.Transport, door: Door) -> None:
        self._transport = transport
        self._door = door
        self._deadline = door.sweeper.now + door.rules.control_s

    def sweep(self, now: float) -> None:
        """Leaves when the connection has closed; closes it when its time is up."""
        if now > self._deadline:
            self._transport.abort()
        if self._transport.is_closing():
            self._door.sweeper.members.discard(self)


def hand_over(transport: asyncio.Transport, data: bytes, door: Door) -> None:
    """Makes the control plane's protocol the owner of `transport`, `data` being its first bytes."""
    protocol: Any = door.control_protocol()
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    door.sweeper.members.add(_HandedOver(transport, door))
    protocol.data_received(data)
