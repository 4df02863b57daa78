"""Messages of etcd's JSON gateway, as far as they are used.

In its JSON, keys and values are base64 and 64-bit numbers are strings; zeros and empty fields are
left out. msgspec reads base64 into `bytes` and, when not strict, strings into numbers.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")

MAX_LINE_BYTES = 64 * 1024 * 1024
"""why: etcd sends at most 1,000 revisions in one watch answer; 64 KB each is far beyond a worker's record."""


class Header(msgspec.Struct):
    """Stands in every answer. `revision` is the whole store's, not our keys'."""

    cluster_id: int = 0
    revision: int = 0


class KeyValue(msgspec.Struct):
    """One key. In a delete event only `key` and `mod_revision` are set."""

    key: bytes = b""
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    lease: int = 0


class RangeAnswer(msgspec.Struct):
    """Answer to a range; `count` is that of all keys in the range, not of this page."""

    header: Header = msgspec.field(default_factory=Header)
    kvs: list[KeyValue] = []
    more: bool = False
    count: int = 0


class TxnPart(msgspec.Struct):
    """Answer to one operation of a transaction; of a range only."""

    response_range: RangeAnswer | None = None


class TxnAnswer(msgspec.Struct):
    """Answer to a transaction; `succeeded` says which branch ran."""

    header: Header = msgspec.field(default_factory=Header)
    succeeded: bool = False
    responses: list[TxnPart] = []


class LeaseAnswer(msgspec.Struct):
    """Answer to a grant or a keepalive; no TTL in a keepalive's says that the lease is gone."""

    ID: int = 0
    TTL: int = 0


class TokenAnswer(msgspec.Struct):
    """Answer to a log-in."""

    token: str


class Nothing(msgspec.Struct):
    """An answer of which only the success matters."""


class Event(msgspec.Struct):
    """One change of a key; `type` is left out for a put."""

    kv: KeyValue
    type: str = "PUT"


class WatchAnswer(msgspec.Struct):
    """One message of a watch stream."""

    header: Header = msgspec.field(default_factory=Header)
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    events: list[Event] = []


class Failure(msgspec.Struct):
    """An error, in the shapes of 3.4 to 3.6, of unary answers and (with `grpc_code`) of streams."""

    message: str = ""
    code: int | None = None
    grpc_code: int | None = None


class Envelope(msgspec.Struct, Generic[T]):
    """One line of a stream."""

    result: T | None = None
    error: Failure | None = None


_encoder = msgspec.json.Encoder()
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def encode(message: dict[str, Any]) -> bytes:
    """A request's body."""
    return _encoder.encode(message)


def decode(data: bytes, shape: type[T]) -> T:
    """An answer as `shape`; one decoder a shape is kept (there are fewer than ten).

    Raises:
        msgspec.MsgspecError: the data is not of that shape.
    """
    decoder = _decoders.get(shape)
    if decoder is None:
        decoder = _decoders[shape] = msgspec.json.Decoder(shape, strict=False)
    answer: T = decoder.decode(data)
    return answer


class _MaybeFailed(msgspec.Struct):
    error: str | Failure | None = None
    message: str = ""
    code: int | None = None


def failure_in(data: bytes) -> Failure | None:
    """The error that an answer to a call tells of; None when it succeeded.

    Raises:
        msgspec.MsgspecError: the data is not a JSON object.
    """
    if b'"code"' not in data and b'"error"' not in data and data.startswith(b"{"):
        return None  # a page of a thousand keys is not read twice
    found = decode(data, _MaybeFailed)
    if isinstance(found.error, Failure):
        return found.error
    if found.error is None and found.code is None:
        return None
    return Failure(message=found.message or found.error or "", code=found.code)


def prefix_end(prefix: bytes) -> bytes:
    """The `range_end` that makes a range of all keys with a prefix (which ends in no 0xff)."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))


class Lines:
    """Splits a stream on newlines; what the transport calls a chunk has no meaning."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes.

        Raises:
            ValueError: a line is longer than `MAX_LINE_BYTES`.
        """
        if b"\n" not in data:
            self._held += data
            if len(self._held) > MAX_LINE_BYTES:
                raise ValueError(f"a line of more than {MAX_LINE_BYTES} bytes")
            return []
        *whole, rest = data.split(b"\n")
        whole[0] = bytes(self._held) + whole[0]
        self._held = bytearray(rest)
        return [line for line in whole if line]
