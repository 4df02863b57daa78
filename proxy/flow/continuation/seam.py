"""Where two parts of a stream meet: what the second must be told to look like more of the first."""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.flow.continuation.account import Account, GenerateAccount
from proxy.flow.continuation.asked import Asked
from proxy.flow.continuation.closing import OUTPUT_LISTS
from proxy.flow.events import Members, as_array, as_object, decode_object, encode

# What is the first part's for all of the answer.
_OF_THE_PROMPT = ("id", "prompt_tokens", "cached_tokens", "cached_tokens_details")


@dataclass(frozen=True, slots=True)
class Seam:
    """What the client has been told, and how."""

    generated: int
    """Tokens before the seam."""
    again: int
    """Tokens that were told beyond it, and will be told again."""
    text: str
    """Before the seam, an echoed prompt left out."""
    beyond: str
    """Shown beyond it: it will come again."""
    identity: Members
    """Of the events: `meta_info`'s members that are the prompt's, or id, created and model."""
    prompt_tokens: int | None
    stops: tuple[str, ...] = ()
    keeps_stop: bool = False
    least: int = 0
    include_usage: bool = False
    cumulative: bool | None = None
    """/generate: whether events tell all so far; None: not known yet."""
    ids: bytes = b""
    """/generate: those before the seam, as the inside of a JSON array."""
    lists: dict[str, bytes] = field(default_factory=dict)
    """/generate: likewise what was told of each token, where it is told again and again."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a seam is."""

    generated: int
    """Tokens before it."""
    again: int
    """Tokens that were told beyond it."""
    text: str
    """Shown before it, an echoed prompt left out."""
    beyond: str = ""
    """Shown beyond it."""


def seam_of(asked: Asked, account: Account, place: Place, prompt_tokens: int | None) -> Seam:
    """The seam at some place of what an account tells.

    Args:
        asked: what was asked for.
        account: what was told.
        place: where.
        prompt_tokens: of the prompt, where they are known.
    """
    generated = place.generated
    identity, lists, ids, cumulative = account.identity, {}, b"", None
    if isinstance(account, GenerateAccount):
        event = decode_object(account.last)
        meta = as_object(event.get("meta_info")) or {}
        identity = {name: meta[name] for name in _OF_THE_PROMPT if name in meta}
        cumulative = account.cumulative
        if account.ids is not None:
            ids = encode(account.ids[:generated].tolist())[1:-1]
        alone = account.told == len(as_array(event.get("output_ids")))
        for name in OUTPUT_LISTS:
            told = as_array(meta.get(name))
            if name in meta and len(told) == account.told and (cumulative is not False or not alone):
                lists[name] = encode(told[:generated])[1:-1]
    return Seam(
        generated=generated,
        again=place.again,
        text=place.text,
        beyond=place.beyond,
        identity=identity,
        prompt_tokens=prompt_tokens,
        stops=asked.stops,
        keeps_stop=asked.keeps_stop,
        least=asked.least,
        include_usage=asked.include_usage,
        cumulative=cumulative,
        ids=ids,
        lists=lists,
    )
