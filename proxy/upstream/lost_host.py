"""A worker's host that is cut off says nothing, no end and no reset: the kernel asks whether it is there.

Without that its streams would wait for `upstream.between_chunks_s`, minutes, since an engine may be silent
for long. A kernel answers whatever its engine does, so that a slow one is not taken for a lost one.
"""

from __future__ import annotations

import asyncio
import socket

LOST_HOST_S = 25
"""After so long without a sign a connection breaks."""
_IDLE_S, _INTERVAL_S, _PROBES = 10, 5, 3

_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _INTERVAL_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES),
    # For what we have sent: a request that nobody acknowledges.
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST_HOST_S * 1000),
)


def notice_lost_host(transport: asyncio.Transport) -> None:
    """Has a connection break within `LOST_HOST_S` if its other end's host vanishes."""
    connected = transport.get_extra_info("socket")
    for level, option, value in _OPTIONS:
        connected.setsockopt(level, option, value)
