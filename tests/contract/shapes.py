"""What is compared of two answers: status, type, and every key in its order with the type of its value."""

from __future__ import annotations

import re
from typing import Any

from tests.contract.engine_client import Answer

_PLACE = re.compile(r"""File "[^"]*", line \d+|'ctx': \{'error': '[^']*'\}""")
"""And the words of the JSON parser, of which theirs is another."""


def keys(value: Any) -> Any:
    """The shape of a JSON value: keys in order, types of leaves."""
    if isinstance(value, dict):
        return tuple((key, "any" if _varies(key, one) else keys(one)) for key, one in value.items())
    if isinstance(value, list):
        return tuple(keys(one) for one in value[:1])
    return (
        "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
    )


def _varies(key: str, value: Any) -> bool:
    """Whether it depends on the token: its bytes, and a completion's likely ones, whose texts are keys."""
    if key == "top_logprobs" and isinstance(value, list):
        return not value or "token" not in (value[-1] or {})
    return key == "bytes"


def loose(value: Any) -> Any:
    """Shape of an event or an answer, of /generate's without what depends on a cache hit."""
    if isinstance(value, list):
        return [loose(one) for one in value]
    if "meta_info" not in value:
        return keys(value)
    # A throughput is told if the API server saw a token before the last: a matter of speed.
    meta = {name: one for name, one in value["meta_info"].items() if name != "decode_throughput"}
    return keys({**value, "output_ids": [], "meta_info": {**meta, "cached_tokens_details": None}})


def same_head(ours: Answer, real: Answer) -> None:
    """Asserts status and type."""
    assert ours.status == real.status
    assert ours.type == real.type


def told(answer: Answer) -> Any:
    """An error's body, but for the place in SGLang's source and for bodies that are no JSON."""
    if answer.type != "application/json":
        return answer.body
    body = answer.json
    if "message" in body:
        body["message"] = _PLACE.sub("...", body["message"])
    return body


def event_shapes(answer: Answer) -> set[Any]:
    """The shapes of a stream's events: which tokens share one is a matter of speed."""
    return {loose(event) for event in answer.events}
