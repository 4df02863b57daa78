"""What is written for a client that has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from proxy.edge.reply import Reply


class ClosedTransport(asyncio.WriteTransport):
    """As uvloop's, which raises where asyncio's only warns."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        raise RuntimeError("the handler is closed")

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        raise RuntimeError("the handler is closed")

    def abort(self) -> None:
        raise RuntimeError("the handler is closed")


def test_what_is_written_for_a_client_that_has_gone_goes_nowhere() -> None:
    ended: list[bool] = []
    reply = Reply(
        ClosedTransport(),
        http10=False,
        closes=False,
        last=lambda: False,
        on_end=ended.append,
    )
    reply.forsake()
    reply.open(b"HTTP/1.1 200 OK", b"")
    reply.raw(b"1\r\nx\r\n")
    reply.payload(b"x")
    reply.end()
    reply.break_off()
    assert not ended
