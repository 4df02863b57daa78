"""What goes to the workers: the client's body as it came, and the bootstrap keys behind it."""

from __future__ import annotations

import random
from functools import lru_cache

from proxy.roster import Worker

_LARGEST_ROOM_BITS = 62  # why: an int64 with headroom, since a batch takes room, room + 1, ...


def mint_room(rng: random.Random) -> int:
    """A bootstrap room by chance; at least 1, for 0 means "not written"."""
    return rng.getrandbits(_LARGEST_ROOM_BITS) + 1


@lru_cache(maxsize=4096)
def _bootstrap_members(prefill: Worker) -> str:
    host = prefill.bootstrap_host or prefill.host
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    port = "null" if prefill.bootstrap_port is None else prefill.bootstrap_port
    return f',"bootstrap_host":"{host}","bootstrap_port":{port},"bootstrap_room":'


def splice_tail(prefill: Worker, room: int, rid: str, overrides: bytes = b"") -> bytes:
    """The bytes that stand in the place of the body's last brace.

    They come last, so that they win over keys of the client's own with the same names.

    Args:
        prefill: whose bootstrap server decode asks for the KV cache.
        room: the attempt's room.
        rid: the attempt's request id, 32 hex digits.
        overrides: further members, each with a comma before it.
    """
    return overrides + f'{_bootstrap_members(prefill)}{room},"rid":"{rid}"}}'.encode()
