"""A request's body as it arrives, by length or in chunks, counted in the ledger."""

from __future__ import annotations

from proxy.errors import BadRequest, BodyTooLarge
from proxy.routing.ledger import Ledger
from proxy.upstream.framing import Dechunker, FramingError


class Body:
    """Collects one body. `release` gives its bytes back to the ledger; it must be called once."""

    __slots__ = ("_counted", "_dechunker", "_ledger", "_left", "_limit", "_pieces")

    def __init__(self, content_length: int | None, chunked: bool, limit_bytes: int, ledger: Ledger) -> None:
        """Starts a body.

        Raises:
            BodyTooLarge: its length is over the limit.
            Overloaded: the ledger is full.
        """
        self._limit = limit_bytes
        self._ledger = ledger
        self._pieces: list[bytes] = []
        self._counted = 0
        self._dechunker = Dechunker() if chunked else None
        self._left = content_length or 0
        self._count(self._left)

    def _count(self, more: int) -> None:
        if self._counted + more > self._limit:
            raise BodyTooLarge(
                f"the request's body has over {self._limit} bytes, the most that is taken "
                f"(setting limits.body_bytes)"
            )
        self._ledger.take(more)
        self._counted += more

    @property
    def complete(self) -> bool:
        """Whether all of it is here."""
        return self._dechunker is None and self._left == 0

    def feed(self, data: bytes) -> bytes:
        """Takes what belongs to the body.

        Returns:
            What stands behind its end; empty while it goes on.

        Raises:
            BadRequest: the chunks are malformed.
            BodyTooLarge: it is over the limit.
            Overloaded: the ledger is full.
        """
        if self._dechunker is not None:
            return self._feed_chunks(self._dechunker, data)
        extra = b""
        if len(data) > self._left:
            data, extra = data[: self._left], data[self._left :]
        self._left -= len(data)
        self._pieces.append(data)
        return extra

    def _feed_chunks(self, dechunker: Dechunker, data: bytes) -> bytes:
        before = len(self._pieces)
        try:
            end = dechunker.feed(data, self._pieces)
        except FramingError as error:
            raise BadRequest(f"the request's body is malformed: {error}") from None
        came = sum(map(len, self._pieces[before:]))
        self._count(came)
        if end < 0:
            return b""
        self._dechunker = None
        return data[end:]

    def join(self) -> bytes:
        """The whole body."""
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def release(self) -> None:
        """Gives its bytes back to the ledger."""
        self._ledger.give(self._counted)
        self._counted = 0
