"""Takes secrets out of what workers tell: SGLang dumps its api key in clear."""

from __future__ import annotations

import re

_SECRET = re.compile(r"(^|_)(key|keys|token|password|passwd|secret|credential|credentials)$", re.IGNORECASE)
_MASK = "***"


def redacted(value: object) -> object:
    """`value` without the values of members that hold secrets.

    A number is no secret: max_total_num_tokens and the like stay.
    """
    if isinstance(value, dict):
        return {name: _member(str(name), member) for name, member in value.items()}
    if isinstance(value, list):
        return [redacted(item) for item in value]
    return value


def _member(name: str, value: object) -> object:
    # A file's name is no secret either, but where the key lies is nobody's business.
    if (
        _SECRET.search(name)
        or "api_key" in name.lower()
        or "password" in name.lower()
        or "keyfile" in name.lower()
        # 0.5.23's whole command line, the api key's flag in it.
        or name == "launch_command"
    ):
        return value if value is None or isinstance(value, (bool, int, float)) else _MASK
    return redacted(value)
