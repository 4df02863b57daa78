"""What goes to the workers: the client's body as it came, and the bootstrap keys behind it."""

from __future__ import annotations

from functools import lru_cache

from proxy.roster import Worker

_LARGEST_ROOM_BITS = 62  # why: an int64 with headroom, since a batch takes room, room + 1, ...


def mint_room(bits: int) -> int:
    """A bootstrap room from `_LARGEST_ROOM_BITS` random bits; at least 1, for 0 means "not written"."""
    return (bits & ((1 << _LARGEST_ROOM_BITS) - 1)) + 1


@lru_cache(maxsize=4096)
def _bootstrap_address(prefill: Worker) -> bytes:
    host = prefill.bootstrap_host or prefill.host
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    port = b"null" if prefill.bootstrap_port is None else b"%d" % prefill.bootstrap_port
    return b',"bootstrap_host":"%b","bootstrap_port":%b,"bootstrap_room":' % (host.encode(), port)


def splice_tail(prefill: Worker, room: int, rid: str, overrides: bytes = b"") -> bytes:
    """The bytes that stand in the place of the body's last brace.

    They come last, so that they win over keys of the client's own with the same names.

    Args:
        prefill: whose bootstrap server decode asks for the KV cache.
        room: the attempt's room.
        rid: the attempt's request id, 32 hex digits.
        overrides: further members, each with a comma before it.
    """
    return b'%b%b%d,"rid":"%b"}' % (overrides, _bootstrap_address(prefill), room, rid.encode())
