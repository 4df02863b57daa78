"""From what was asked and what was said to the request that goes on: pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from proxy.flow.continuation.account import Account, OpenAIAccount
from proxy.flow.continuation.asked import FLAG, IDS, TEXT, TEXT_OR_IDS, Asked, Dialect, decoded
from proxy.flow.events import Members, as_array, decode_object, encode, raw


class Kind(StrEnum):
    """How true a continuation is to the stream that broke."""

    EXACT = "exact"
    """The engine gets the very tokens that were generated."""
    APPROXIMATE = "approximate"
    """It gets their text, which it may cut into other tokens."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that goes on where the stream broke."""

    kind: Kind
    body: bytes


class Refusal(Exception):
    """The stream cannot be continued; the text says why."""


@dataclass(frozen=True, slots=True)
class Known:
    """What workers were asked for; None: not asked, or not to be had."""

    prompt_ids: list[int] | None = None
    text_ids: list[int] | None = None
    """Of the text that was generated: a second reading of it, not what the engine made it of."""
    chat_takes_ids: bool = False
    """Whether the workers take a chat's prompt as ids."""


def plan(asked: Asked, account: Account, generated: int, known: Known) -> Plan:
    """The request that goes on.

    Args:
        asked: what was asked for at first.
        account: what the client has been told.
        generated: tokens before the seam.
        known: what workers told of the prompt and of the text.

    Raises:
        Refusal: there is none.
    """
    if asked.dialect is Dialect.GENERATE:
        return _generate(asked, account, generated, known)
    members = asked.lowered(generated)
    if isinstance(account, OpenAIAccount) and asked.dialect is Dialect.COMPLETION:
        return _completion(asked, members, account, generated, known)
    return _chat(members, account, generated, known)


def shown_text(asked: Asked, account: Account) -> str:
    """The generated part of what was shown: an echoed prompt is none.

    Raises:
        Refusal: where the echo ends cannot be told.
    """
    if asked.dialect is not Dialect.COMPLETION or decoded(asked.members, "echo", FLAG) is not True:
        return account.text
    prompt = decoded(asked.members, "prompt", TEXT)
    if prompt is None or not account.text.startswith(prompt):
        raise Refusal("the end of the echoed prompt is not known")
    return account.text[len(prompt) :]


def _generate(asked: Asked, account: Account, generated: int, known: Known) -> Plan:
    members = {**asked.members, "sampling_params": raw(asked.lowered(generated))}
    # What is told of the prompt's own tokens has been told with the first events.
    members.pop("logprob_start_len", None)
    prompt_ids = decoded(members, "input_ids", IDS) or known.prompt_ids
    if prompt_ids is not None and account.ids is not None:
        if asked.has_media:
            raise Refusal("images beside input_ids")
        members.pop("text", None)
        members["input_ids"] = raw([*prompt_ids, *account.ids[:generated]])
        return Plan(Kind.EXACT, encode(members))
    text = decoded(members, "text", TEXT)
    if text is None:
        raise Refusal("the stream does not tell its token ids")
    members["text"] = raw(text + account.text)
    return Plan(Kind.APPROXIMATE, encode(members))


def _completion(asked: Asked, members: Members, account: OpenAIAccount, generated: int, known: Known) -> Plan:
    text = shown_text(asked, account)
    members.pop("echo", None)
    prompt = decoded(members, "prompt", TEXT_OR_IDS)
    ids = prompt if isinstance(prompt, list) else account.prompt_ids
    if account.ids is not None and ids is not None:
        members["prompt"] = raw([*ids, *account.ids[:generated]])
        return Plan(Kind.EXACT, encode(members))
    if isinstance(prompt, str):
        members["prompt"] = raw(prompt + text)
    elif isinstance(prompt, list) and known.text_ids is not None:
        members["prompt"] = raw([*prompt, *known.text_ids])
    else:
        raise Refusal("the ids of the generated text are not known")
    return Plan(Kind.APPROXIMATE, encode(members))


def _chat(members: Members, account: Account, generated: int, known: Known) -> Plan:
    ids = decoded(members, "input_ids", IDS)
    prompt = ids or known.prompt_ids
    if known.chat_takes_ids and prompt is not None and account.ids is not None:
        # The messages stay: they are wanted, and say which stop tokens and tools there are.
        members["input_ids"] = raw([*prompt, *account.ids[:generated]])
        return Plan(Kind.EXACT, encode(members))
    if ids is not None:
        if known.text_ids is None:
            raise Refusal("the ids of the generated text are not known")
        members["input_ids"] = raw([*ids, *known.text_ids])
        return Plan(Kind.APPROXIMATE, encode(members))
    messages = as_array(members.get("messages"))
    said = account.text
    if messages and decoded(members, "continue_final_message", FLAG) is True:
        try:
            last = decode_object(messages[-1])
        except msgspec.DecodeError:
            raise Refusal("the last message is not readable") from None
        if decoded(last, "role", TEXT) == "assistant":
            begun = decoded(last, "content", TEXT)
            if begun is None:
                raise Refusal("the message that was to be continued is no plain text")
            messages, said = messages[:-1], begun + said
    members["messages"] = raw([*messages, msgspec.Raw(encode({"role": "assistant", "content": said}))])
    members["continue_final_message"] = raw(True)
    return Plan(Kind.APPROXIMATE, encode(members))
