"""One break of a stream: what is known, what must be asked, and what follows from both."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from proxy.flow.continuation.account import Account, GenerateAccount, OpenAIAccount
from proxy.flow.continuation.asked import IDS, TEXT, Asked, Dialect, decoded, read_asked
from proxy.flow.continuation.closing import close_choice, close_generated, usage_chunk
from proxy.flow.continuation.plan import Kind, Known, Refusal, plan, shown_text
from proxy.flow.continuation.seam import seam_of
from proxy.flow.continuation.stitch import ChoiceStitch, GeneratedStitch, Stitch
from proxy.flow.continuation.tokenizers import Tokenizers
from proxy.flow.events import END, Members, decode_object
from proxy.routing.group import Group
from proxy.upstream.order import Order

_OF_A_CHAT = (
    "messages",
    "tools",
    "tool_choice",
    "reasoning_effort",
    "chat_template_kwargs",
    "continue_final_message",
)
"""What of a chat decides on its prompt."""
_LONGEST_CHARACTER = 8
"""Tokens that are tried: four make a character, and several may be joined by a tokenizer's rules."""
_CONTEXT = 24


@dataclass(frozen=True, slots=True)
class Found:
    """How a stream goes on: by another order, or by its ending alone."""

    kind: Kind
    order: Order | None = None
    stitch: Stitch | None = None
    ending: bytes = b""


class Resumption:
    """Finds out how one stream goes on."""

    def __init__(
        self, order: Order, account: Account, tokenizers: Tokenizers, group: Group, failed: str
    ) -> None:
        """Makes one.

        Args:
            order: the first one.
            account: what was told.
            tokenizers: whom to ask for token ids.
            group: whose workers these are.
            failed: the worker that broke off: the last to be asked.
        """
        self._order = order
        self._account = account
        self._tokenizers = tokenizers
        self._group = group
        self._failed = failed

    async def find(self, *, exact_only: bool) -> Found:
        """How it goes on.

        Raises:
            Refusal: it does not.
            msgspec.DecodeError, RecursionError, LookupError: the stream is no stream of SGLang's.
        """
        order, account = self._order, self._account
        asked = read_asked(order)
        obstacle = asked.forbids or account.obstacle
        if obstacle is not None:
            raise Refusal(obstacle)
        text = shown_text(asked, account)
        text_ids = await self._text_ids(asked, text)
        generated = account.seam if account.counted or text_ids is None else len(text_ids)
        prompt_tokens = await self._prompt_tokens(asked)
        left = asked.left(generated)
        if account.finished or (left is not None and left <= 0):
            return Found(Kind.EXACT, ending=self._ending(asked, generated, prompt_tokens))
        known = Known(await self._prompt_ids(asked), text_ids)
        made = plan(asked, account, generated, known)
        if made.kind is Kind.EXACT and isinstance(account, GenerateAccount):
            generated, size = await self._whole_tokens(account)
            text = account.text[:size]
            made = plan(asked, account, generated, known)
        if exact_only and made.kind is not Kind.EXACT:
            raise Refusal("not all of its token ids are known (setting retries.continuation)")
        seam = seam_of(asked, account, generated, text, prompt_tokens)
        stitch = GeneratedStitch(seam) if order.generate else ChoiceStitch(seam)
        again = msgspec.structs.replace(
            order,
            body=made.body,
            body_end=made.body.rfind(b"}"),
            overrides=b"",
            raw=False,
            keep_prefill=False,
        )
        return Found(made.kind, again, stitch)

    async def _prompt_ids(self, asked: Asked) -> list[int] | None:
        text = decoded(asked.members, "text", TEXT)
        if asked.dialect is not Dialect.GENERATE or text is None or self._account.ids is None:
            return None
        # With images beside it a text is more than its tokens.
        return None if asked.has_media else await self._ask({"prompt": text})

    async def _whole_tokens(self, account: GenerateAccount) -> tuple[int, int]:
        """Tokens, and the characters that they show, of which the text is surely whole.

        An event of several tokens may show the text of the first and hold back a part of a character,
        and SGLang shows the space in front of a character before the character is complete. Then the
        worker's tokenizer says which tokens are whole; without one, all of that event are generated
        again. What they show again is not told twice.
        """
        tokens, size = account.before
        if account.seam - tokens <= 1 and not account.text.endswith(" "):
            return account.seam, len(account.text)
        ids = account.ids
        assert ids is not None
        ends = range(len(ids), max(len(ids) - _LONGEST_CHARACTER, 0), -1)
        texts = await self._tokenizers.texts(
            self._group, self._failed, [ids[max(end - _CONTEXT, 0) : end].tolist() for end in ends]
        )
        for end, text in zip(ends, texts or (), strict=False):
            found = size_shown(account.text, text)
            if found is not None:
                return end, found
        return tokens, size

    async def _text_ids(self, asked: Asked, text: str) -> list[int] | None:
        if asked.dialect is Dialect.GENERATE or not text:
            return None
        by_ids = decoded(asked.members, "prompt", IDS) or decoded(asked.members, "input_ids", IDS)
        if self._account.counted and (by_ids is None or self._account.ids is not None):
            return None
        return await self._tokenizers.text(self._group, self._failed, text)

    async def _prompt_tokens(self, asked: Asked) -> int | None:
        known = self._account.prompt_tokens
        if known is not None or not asked.include_usage:
            return known
        ids = decoded(asked.members, "prompt", IDS) or decoded(asked.members, "input_ids", IDS)
        if ids is not None:
            return len(ids)
        wanted = _OF_A_CHAT if asked.dialect is Dialect.CHAT else ("prompt",)
        found = await self._ask({name: asked.members[name] for name in wanted if name in asked.members})
        return None if found is None else len(found)

    async def _ask(self, question: Members | dict[str, str]) -> list[int] | None:
        return await self._tokenizers.prompt(self._group, self._failed, question)

    def _ending(self, asked: Asked, generated: int, prompt_tokens: int | None) -> bytes:
        """What is missing of a stream in which all has been said."""
        account = self._account
        last, datas = decode_object(account.last), []
        if not account.finished:
            if isinstance(account, GenerateAccount):
                text = None if account.cumulative is False else account.text
                datas.append(close_generated(last, {"type": "length", "length": generated}, text))
            else:
                datas += close_choice(last, "length", None)
        told = isinstance(account, OpenAIAccount) and account.usage_told
        if asked.include_usage and prompt_tokens is not None and not told:
            datas.append(usage_chunk(last, prompt_tokens, generated))
        return b"".join([b"data: %b\n\n" % data for data in [*datas, END]])


def size_shown(shown: str, text: str) -> int | None:
    """How much was shown by tokens that end in `text`; None if they end amid a character."""
    if text.endswith("\ufffd"):
        return None
    end = text[-_LONGEST_CHARACTER:]
    for beyond in range(_LONGEST_CHARACTER):
        size = len(shown) - beyond
        if size >= 0 and shown[:size].endswith(end):
            return size
    return None
