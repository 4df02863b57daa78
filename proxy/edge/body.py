"""A request's body as it arrives, by length or in chunks, counted in the ledger."""

from __future__ import annotations

from proxy.errors import BadRequest, BodyTooLarge
from proxy.routing.ledger import Ledger
from proxy.upstream.framing import Dechunker, FramingError


def check_size(size_bytes: int, limit_bytes: int) -> None:
    """Raises BodyTooLarge if a body of that size is over the limit."""
    if size_bytes > limit_bytes:
        raise BodyTooLarge(
            f"the request's body has over {limit_bytes} bytes, the most that is taken "
            f"(setting limits.body_bytes)"
        )


class Body:
    """Collects one body that comes in pieces; what it holds stays counted, for its owner to give back."""

    __slots__ = ("_dechunker", "_ledger", "_left", "_limit", "_pieces", "held_bytes")

    def __init__(self, content_length: int | None, chunked: bool, limit_bytes: int, ledger: Ledger) -> None:
        """Starts a body.

        Raises:
            BodyTooLarge: its length is over the limit.
            Overloaded: the ledger is full.
        """
        self._limit = limit_bytes
        self._ledger = ledger
        self._pieces: list[bytes] = []
        self.held_bytes = 0
        """Counted in the ledger."""
        self._dechunker = Dechunker() if chunked else None
        self._left = content_length or 0
        self._count(self._left)

    def _count(self, more: int) -> None:
        check_size(self.held_bytes + more, self._limit)
        self._ledger.take(more)
        self.held_bytes += more

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
