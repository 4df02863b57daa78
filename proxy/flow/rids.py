"""A client's own request id: the workers get one minted here, the client gets its own back."""

from __future__ import annotations

import re

from proxy.flow.events import encode
from proxy.flow.recipient import Amend


def put_back(minted: str, own: str | list[str] | None) -> Amend | None:
    """What gives a client its own id back, in every `id` that SGLang makes of the minted one.

    The item i of a batch has the id RID_i. Inside a text the same letters stand with their
    quotes escaped, so that nothing but an id is ever matched.

    Args:
        minted: what the workers were given, 32 hex digits.
        own: the client's: one for all, or one for each item.
    """
    if own is None:
        return None
    if isinstance(own, str):
        there, back = b'"id":"%b' % minted.encode(), b'"id":"%b' % encode(own)[1:-1]
        return lambda data: data.replace(there, back)
    ids = [encode(one) for one in own]
    pattern = re.compile(rb'"id":"%b(?:_(\d+))?"' % minted.encode())

    def replace(match: re.Match[bytes]) -> bytes:
        index = int(match.group(1) or 0)
        return b'"id":' + ids[index] if index < len(ids) else match.group(0)

    return lambda data: pattern.sub(replace, data)
