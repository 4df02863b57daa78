"""HTTP/1.1 framing of what workers answer, and chunked bodies of both sides."""

from __future__ import annotations

import msgspec

from proxy.errors import UpstreamFailure

HOP_BY_HOP = frozenset(
    [
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    ]
)
_LONGEST_SIZE_LINE = 256  # why: 16 hex digits and a generous extension
_LONGEST_TRAILER = 8192


class FramingError(Exception):
    """A body that is not framed as its head says."""


class ResponseHead(msgspec.Struct, frozen=True):
    """A worker's response head, reduced to what framing and relaying need."""

    status: int
    status_line: bytes
    """Without the line's end, and of HTTP/1.1: the version in it is its sender's own."""
    passed_on: bytes
    """The header lines that go on to the client, each with its line's end."""
    content_length: int | None
    """Of the head that was parsed; another of the same kind may have another."""
    chunked: bool
    keep_alive: bool
    event_stream: bool


def parse_head(head: bytes) -> ResponseHead:
    """Parses a response head that ends with an empty line.

    Raises:
        UpstreamFailure: it is not HTTP/1.x.
    """
    lines = head.split(b"\r\n")
    status_line = lines[0]
    content_length: int | None = None
    chunked = event_stream = False
    passed_on: list[bytes] = []
    try:
        if not status_line.startswith(b"HTTP/1."):
            raise ValueError
        status = _number(status_line[9:12])
        if not 100 <= status <= 599:
            raise ValueError
        keep_alive = status_line[7:8] != b"0"
        for line in lines[1:-2]:
            name, colon, value = line.partition(b":")
            name = name.lower()
            if not colon:
                raise ValueError
            if name == b"content-length":
                content_length = _number(value.strip())
            elif name == b"transfer-encoding":
                chunked = value.strip().lower().endswith(b"chunked")
            elif name == b"connection":
                keep_alive = b"close" not in value.lower()
            elif name not in HOP_BY_HOP and name != b"x-request-id":
                event_stream |= name == b"content-type" and b"text/event-stream" in value.lower()
                passed_on.append(line + b"\r\n")
    except ValueError:
        raise UpstreamFailure(f"a worker answered with a malformed head: {head[:80]!r}") from None
    if chunked:
        content_length = None
    return ResponseHead(
        status,
        b"HTTP/1.1" + status_line[8:],
        b"".join(passed_on),
        content_length,
        chunked,
        keep_alive,
        event_stream,
    )


def _number(value: bytes) -> int:
    # int() alone would accept signs and underscores.
    if not value.isdigit():
        raise ValueError
    return int(value)


class Dechunker:
    """Takes the chunks' framing off a chunked body, piece by piece as it arrives."""

    __slots__ = ("_in_trailer", "_line", "_need", "_trailer_bytes")

    def __init__(self) -> None:
        self._need = 0  # payload and closing line end still to come of the present chunk
        self._line = b""  # an unfinished size or trailer line
        self._in_trailer = False
        self._trailer_bytes = 0

    def feed(self, data: bytes, out: list[bytes]) -> int:
        """Appends the payload found in `data` to `out`.

        Returns:
            The offset in `data` just behind the body's end, or -1 while the body goes on.

        Raises:
            FramingError: `data` is not chunked as RFC 9112 says.
        """
        position, size = 0, len(data)
        while position < size:
            if self._need:
                position = self._take(data, position, size, out)
                continue
            line_end = data.find(b"\n", position)
            if line_end < 0:
                self._line += data[position:]
                if len(self._line) > _LONGEST_SIZE_LINE:
                    raise FramingError("a chunk's size line is too long")
                return -1
            line = (self._line + data[position:line_end]).rstrip(b"\r")
            self._line = b""
            position = line_end + 1
            if self._in_trailer:
                self._trailer_bytes += len(line)
                if not line:
                    return position
                if self._trailer_bytes > _LONGEST_TRAILER:
                    raise FramingError("the trailer is too long")
            else:
                self._start_chunk(line)
        return -1

    def _take(self, data: bytes, position: int, size: int, out: list[bytes]) -> int:
        end = min(position + self._need, size)
        payload_end = min(end, position + self._need - 2)
        if payload_end > position:
            out.append(data[position:payload_end])
        # The two bytes behind the payload may come in two reads: each is checked as it passes.
        for offset in range(max(payload_end, position), end):
            remaining = self._need - (offset - position)
            if data[offset] != (13 if remaining == 2 else 10):
                raise FramingError("a chunk is longer than its size says")
        self._need -= end - position
        return end

    def _start_chunk(self, line: bytes) -> None:
        digits = line.partition(b";")[0].strip()
        # int() alone would accept signs and underscores, a door for request smuggling.
        if not digits or len(digits) > 16 or digits.strip(b"0123456789abcdefABCDEF"):
            raise FramingError(f"{line[:20]!r} is not a chunk's size")
        length = int(digits, 16)
        if length:
            self._need = length + 2
        else:
            self._in_trailer = True


def chunk(payload: bytes) -> bytes:
    """`payload` as one chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


LAST_CHUNK = b"0\r\n\r\n"
LONGEST_PLAIN = 4096
"""The longest plain chunk, framing and all."""
PLAIN_END = b"\n\n\r\n"


def _size_lines() -> list[bytes]:
    """By the size of a chunk, framing and all: the line that it begins with (none begins with b"!")."""
    lines = [b"!"] * (LONGEST_PLAIN + 1)
    for length in range(2, LONGEST_PLAIN):
        line = b"%x\r\n" % length
        framed = len(line) + length + 2
        if framed <= LONGEST_PLAIN:
            lines[framed] = line
    return lines


PLAIN_STARTS = _size_lines()
"""How a read must begin, by its size, to be plain: one chunk that ends with a whole event (PLAIN_END).

Nearly every read of a stream is. `whole_chunks` would find the same in twice the time, for the
size alone says how the chunk begins, and no number is parsed.
"""


def whole_chunks(data: bytes) -> tuple[int, int, bool]:
    """How much of `data` can go on raw: whole chunks that each end with a whole event.

    `data` must begin where a chunk begins. This is the hot path of every stream: one
    comparison a chunk tells both that the framing holds and that an event ends there.

    Returns:
        (good, need, plain): bytes that may go on; the length at which looking again
        makes sense; and whether what follows `good` is still of this plain form (False:
        another framing, or the last chunk, which the general walk has to handle).
    """
    good, size = 0, len(data)
    while good < size:
        line_end = data.find(b"\r\n", good, good + 18)
        if line_end < 0:
            return good, size + 1, size - good < 18
        try:
            length = int(data[good:line_end], 16)
        except ValueError:
            return good, 0, False
        end = line_end + length + 4
        if length < 2:
            return good, 0, False
        if end > size:
            return good, end, True
        if data[end - 4 : end] != b"\n\n\r\n":
            return good, 0, False
        good = end
    return good, 0, True
