"""What the engine has seen, bounded: a test asks which requests came, with which headers and keys."""

from __future__ import annotations

from collections import deque
from typing import Any

from aiohttp import web

_KEPT = 2000
SEEN = web.RequestKey("seen", dict[str, Any])
"""The note of the request in hand."""


class Recorder:
    """The last requests of the data routes, and how many there were in all."""

    def __init__(self) -> None:
        self.total = 0
        self._requests: deque[dict[str, Any]] = deque(maxlen=_KEPT)

    def arrived(self, request: web.Request, at: float) -> dict[str, Any]:
        """Notes a request of a data route; its body is added when it has been read."""
        self.total += 1
        seen: dict[str, Any] = {
            "method": request.method,
            "path": request.path_qs,
            "headers": [[name.lower(), value] for name, value in request.headers.items()],
            "peer": (request.transport.get_extra_info("peername") if request.transport else None),
            "at": at,
        }
        self._requests.append(seen)
        return seen

    @staticmethod
    def read(seen: dict[str, Any], body: dict[str, Any], size: int) -> None:
        """Adds what the body said: its keys in order, and the few values that routing is about."""
        seen["keys"] = list(body)
        seen["body_bytes"] = size
        for key in (
            "rid",
            "bootstrap_host",
            "bootstrap_port",
            "bootstrap_room",
            "stream",
            "model",
            "sampling_params",
        ):
            if key in body:
                seen[key] = body[key]

    def listing(self) -> list[dict[str, Any]]:
        """Oldest first."""
        return list(self._requests)

    def forget(self) -> None:
        """Starts over."""
        self.total = 0
        self._requests.clear()
