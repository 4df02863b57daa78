"""Headers by which a client says how long it is ready to wait: for this proxy, not for the workers."""

from __future__ import annotations

import re
from collections.abc import Mapping

from proxy.errors import BadRequest
from proxy.upstream.patience import Patience

_FIELDS = {
    b"x-pd-timeout": "total_s",
    b"x-pd-first-token-timeout": "first_token_s",
    b"x-pd-stall-timeout": "between_chunks_s",
}
PATIENCE_HEADERS = frozenset(_FIELDS)
# float() alone would accept inf, nan, signs and underscores.
_SECONDS = re.compile(rb"\d{1,9}(?:\.\d{1,9})?")


def read_patience(headers: Mapping[bytes, bytes], longest_s: float) -> Patience | None:
    """What the headers of PATIENCE_HEADERS ask for, none of it longer than `longest_s`.

    Args:
        headers: those that are there, by their lower-case names.
        longest_s: what a longer time is cut to.

    Raises:
        BadRequest: one is not a number of seconds above 0.
    """
    if not headers:
        return None
    asked: dict[str, float] = {}
    for name, value in headers.items():
        if not _SECONDS.fullmatch(value.strip()) or float(value) == 0:
            raise BadRequest(
                f"the header {name.decode()} must be a number of seconds above 0, "
                f"as 30 or 0.5, not {value[:40].decode('latin-1')!r}",
                param=name.decode(),
            )
        asked[_FIELDS[name]] = min(float(value), longest_s)
    return Patience(**asked)
