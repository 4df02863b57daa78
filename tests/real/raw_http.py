"""Answers byte by byte, as they stand on the wire."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

_LIMIT_S = 120.0


class Exchange:
    """A request that was sent, and its answer that comes."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def read(self) -> bytes:
        """All of the answer, until the server closes; what a reset leaves of it."""
        parts: list[bytes] = []
        with self._connection as connection:
            try:
                while part := connection.recv(1 << 16):
                    parts.append(part)
            except ConnectionResetError:
                pass
        return b"".join(parts)

    def close(self) -> None:
        """The client leaves."""
        self._connection.close()


def send(url: str, path: str, body: Mapping[str, Any] | bytes | None) -> Exchange:
    """Sends a POST, or a GET where there is no body."""
    place = urlsplit(url)
    connection = socket.create_connection((place.hostname, place.port), _LIMIT_S)
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    head = [
        f"{'GET' if body is None else 'POST'} {path} HTTP/1.1",
        f"Host: {place.netloc}",
        "Connection: close",
    ]
    if body is not None:
        head += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    connection.sendall("\r\n".join([*head, "", ""]).encode() + data)
    return Exchange(connection)


def read_all(exchanges: list[Exchange]) -> list[bytes]:
    """The answers of all, read side by side."""
    with ThreadPoolExecutor(len(exchanges)) as readers:
        return list(readers.map(Exchange.read, exchanges))


def ask(url: str, path: str, body: Mapping[str, Any] | bytes | None) -> bytes:
    """One answer."""
    return send(url, path, body).read()
