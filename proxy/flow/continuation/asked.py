"""What a request asked for, as far as a continuation must know: its limits, its stops, what it forbids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeVar

import msgspec

from proxy.flow.events import Members, as_object, decode_object, raw
from proxy.upstream.order import Order

_T = TypeVar("_T")
TEXT = msgspec.json.Decoder(str)
NUMBER = msgspec.json.Decoder(int)
FLAG = msgspec.json.Decoder(bool)
IDS = msgspec.json.Decoder(list[int])
TEXT_OR_IDS: msgspec.json.Decoder[str | list[int]] = msgspec.json.Decoder(str | list[int])
_TEXT_OR_TEXTS: msgspec.json.Decoder[str | list[str]] = msgspec.json.Decoder(str | list[str])
_NOTHING = frozenset([b"null", b"false", b"[]", b"{}", b'""', b""])
# What holds the grammar's state, which no other engine can be given.
_GUIDES = ("json_schema", "regex", "ebnf", "structural_tag")
# What is told of each token, or kept by the engine, that this proxy cannot join at a seam.
_UNJOINABLE = (
    "return_hidden_states",
    "return_routed_experts",
    "return_indexer_topk",
    "session_params",
    "session_id",
    "input_embeds",
    "suffix",
    "stop_regex",
)
_MEDIA = ("image_data", "video_data", "audio_data")


class _Part(msgspec.Struct):
    type: str = "text"


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None


_MESSAGES = msgspec.json.Decoder(list[_Message])


class Dialect(Enum):
    """How the events of a stream look."""

    GENERATE = auto()
    COMPLETION = auto()
    CHAT = auto()


# why: SGLang's own defaults; a chat without a limit has the rest of the context.
_LIMITS: Mapping[Dialect, Mapping[str, int | None]] = {
    Dialect.GENERATE: {"max_new_tokens": 128},
    Dialect.COMPLETION: {"max_tokens": 16},
    Dialect.CHAT: {"max_tokens": None, "max_completion_tokens": None},
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, that of a branch where n > 1."""

    dialect: Dialect
    members: Members
    sampling: Members
    """Where limits and stops stand: `sampling_params`, or the members themselves."""
    stops: tuple[str, ...]
    keeps_stop: bool
    """Whether a stop string stays in the text."""
    least: int
    """Tokens before which nothing stops."""
    include_usage: bool

    @property
    def forbids(self) -> str | None:
        """What in the request makes a continuation impossible; None if nothing does."""
        for name in _GUIDES:
            if given(self.sampling, name):
                return f"guided decoding ({name})"
        form = as_object(self.members.get("response_format"))
        if form is not None and decoded(form, "type", TEXT) != "text":
            return "guided decoding (response_format)"
        if bytes(self.members.get("tool_choice", b"null")) not in (b"null", b'"auto"', b'"none"'):
            return "guided decoding (tool_choice)"
        for name in _UNJOINABLE:
            if given(self.members, name) or given(self.sampling, name):
                return name
        if self._batch:
            return "a batch"
        return None

    @property
    def _batch(self) -> bool:
        for name in ("text", "input_ids", "prompt"):
            value = bytes(self.members.get(name, b""))
            if value[:1] == b"[" and value[1:].lstrip()[:1] in (b"[", b'"', b"]"):
                return True
        return False

    @property
    def has_media(self) -> bool:
        """Whether there is more to the prompt than its text, as images: its tokens alone are not it."""
        if self.dialect is not Dialect.CHAT:
            return any(given(self.members, name) for name in _MEDIA)
        messages = decoded(self.members, "messages", _MESSAGES)
        if messages is None:
            return True
        parts = [part for one in messages if isinstance(one.content, list) for part in one.content]
        return any(part.type != "text" for part in parts)

    def left(self, generated: int) -> int | None:
        """How many tokens may still come after so many; None: no limit was given."""
        limits = self._limits()
        return max(limits.values()) - generated if limits else None

    def lowered(self, generated: int) -> Members:
        """`sampling` with its limits lowered by what was generated."""
        changed = dict(self.sampling)
        for name, limit in self._limits().items():
            changed[name] = raw(max(limit - generated, 1))
        for name in ("min_new_tokens", "min_tokens"):
            if name in changed:
                changed[name] = raw(max(self.least - generated, 0))
        return changed

    def _limits(self) -> dict[str, int]:
        limits = {}
        for name, otherwise in _LIMITS[self.dialect].items():
            limit = decoded(self.sampling, name, NUMBER) if name in self.sampling else otherwise
            if limit is not None:
                limits[name] = limit
        return limits


def read_asked(order: Order) -> Asked:
    """Reads an order's body.

    Raises:
        msgspec.DecodeError, RecursionError: no worker could have read it either.
    """
    members = decode_object(b"%b%b}" % (order.body[: order.body_end], order.overrides))
    if order.generate:
        dialect, sampling = Dialect.GENERATE, as_object(members.get("sampling_params")) or {}
    else:
        dialect, sampling = (Dialect.CHAT if "messages" in members else Dialect.COMPLETION), members
    stop = decoded(sampling, "stop", _TEXT_OR_TEXTS)
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    options = as_object(members.get("stream_options")) or {}
    return Asked(
        dialect,
        members,
        sampling,
        tuple(one for one in stops if one),
        given(sampling, "no_stop_trim"),
        decoded(sampling, "min_new_tokens" if order.generate else "min_tokens", NUMBER) or 0,
        given(options, "include_usage"),
    )


def given(members: Members, name: str) -> bool:
    """Whether a member is there and says something."""
    return bytes(members.get(name, b"")) not in _NOTHING


def decoded(members: Members, name: str, decoder: msgspec.json.Decoder[_T]) -> _T | None:
    """A member as what it should be; None where it is absent or something else."""
    value = members.get(name)
    if value is None:
        return None
    try:
        return decoder.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return None
