"""Server-sent events as JSON: for the few features that must look into an answer."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

Members = dict[str, msgspec.Raw]
"""A JSON object whose members stay as they came."""

decode_object = msgspec.json.Decoder(Members).decode
decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
encode = msgspec.json.Encoder().encode
END = b"[DONE]"
"""The data of the event that ends a stream."""


def datas(events: bytes) -> list[bytes]:
    """The data of each event, [DONE] left out."""
    return [data for data in all_datas(events) if data != END]


def all_datas(events: bytes) -> list[bytes]:
    """The data of each event; the workers' chunk framing may stand around them."""
    found = []
    for block in events.split(b"\n\n"):
        start = block.find(b"data:")
        if start >= 0:
            found.append(block[start + 5 :].strip())
    return found


def map_events(events: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Whole events with each one's data changed; [DONE] and whatever is no data stay."""
    blocks = events.split(b"\n\n")
    for at, block in enumerate(blocks):
        if block.startswith(b"data:"):
            data = block[5:].strip()
            if data != END:
                blocks[at] = b"data: " + change(data)
    return b"\n\n".join(blocks)


def whole_number(raw: msgspec.Raw | None, otherwise: int = 0) -> int:
    """A member that is a whole number; `otherwise` where it is absent or something else."""
    if raw is None:
        return otherwise
    try:
        return int(bytes(raw))
    except ValueError:
        return otherwise


def as_object(raw: msgspec.Raw | None) -> Members | None:
    """A member that is an object, or None."""
    if raw is None:
        return None
    try:
        return decode_object(raw)
    except msgspec.DecodeError:
        return None


def as_array(raw: msgspec.Raw | None) -> list[msgspec.Raw]:
    """A member that is an array; empty where it is absent or something else."""
    if raw is None:
        return []
    try:
        return decode_array(raw)
    except msgspec.DecodeError:
        return []


def raw(value: object) -> msgspec.Raw:
    """A value as a member."""
    return msgspec.Raw(encode(value))
