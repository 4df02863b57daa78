"""One break of a stream: what is known, what must be asked, and what follows from both."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from proxy.flow.continuation.account import Account, GenerateAccount, OpenAIAccount
from proxy.flow.continuation.asked import IDS, TEXT, Asked, Dialect, decoded, read_asked
from proxy.flow.continuation.choice_stitch import ChoiceStitch
from proxy.flow.continuation.closing import close_choice, close_generated, usage_chunk
from proxy.flow.continuation.plan import Kind, Known, Refusal, plan, shown_text
from proxy.flow.continuation.printable import may_lack_more
from proxy.flow.continuation.seam import Place, seam_of
from proxy.flow.continuation.stitch import GeneratedStitch, Stitch
from proxy.flow.continuation.tokenizers import Tokenizers
from proxy.flow.events import END, decode_object
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
_COMPARED = 8
_MOST_BEYOND = 64
"""Characters that SGLang may have shown of tokens of which not all is shown: seldom more than a few."""


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
        takes_ids = await self._chat_takes_ids(asked)
        known = Known(await self._prompt_ids(asked, takes_ids), text_ids, takes_ids)
        made = plan(asked, account, generated, known)
        place = Place(generated, account.told - account.seam, text)
        if made.kind is Kind.EXACT:
            place = await self._whole_tokens(account, len(account.text) - len(text))
            made = plan(asked, account, place.generated, known)
        elif exact_only:
            raise Refusal("not all of its token ids are known (setting retries.continuation)")
        seam = seam_of(asked, account, place, prompt_tokens)
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

    async def _chat_takes_ids(self, asked: Asked) -> bool:
        if asked.dialect is not Dialect.CHAT or self._account.ids is None or asked.has_media:
            return False
        return await self._tokenizers.chats.taken(self._group)

    async def _prompt_ids(self, asked: Asked, chat_takes_ids: bool) -> list[int] | None:
        account = self._account
        if account.ids is None:
            return None
        if isinstance(account, OpenAIAccount):
            if account.prompt_ids is not None or not chat_takes_ids:
                return account.prompt_ids
            ids = await self._chat_ids(asked)
        else:
            text = decoded(asked.members, "text", TEXT)
            # With images beside it a text is more than its tokens.
            if text is None or asked.has_media:
                return None
            ids = await self._tokenizers.prompt(self._group, self._failed, text)
        # Another tokenizer's ids would be another prompt; one beyond the vocabulary kills SGLang's scheduler.
        known = account.prompt_tokens
        return ids if ids is None or known is None or len(ids) == known else None

    async def _chat_ids(self, asked: Asked) -> list[int] | None:
        ids = decoded(asked.members, "input_ids", IDS)
        if ids is not None:
            return ids
        chat = {name: asked.members[name] for name in _OF_A_CHAT if name in asked.members}
        return await self._tokenizers.of(self._group, self._failed, chat)

    async def _whole_tokens(self, account: Account, echo: int) -> Place:
        """The last place before which the text is surely whole.

        Where the end of the text leaves a doubt, the worker's tokenizer says which tokens are whole; without
        one, all since the last sure place are generated again. What they show again is not told twice.

        Args:
            account: what was told, its ids among it.
            echo: characters of an echoed prompt in front of the text.
        """
        tokens, size = account.whole.sure
        if account.text and may_lack_more(account.text):
            tokens, size = await self._doubtful_size(account)
        size = max(size, echo)
        return Place(tokens, account.told - tokens, account.text[echo:size], account.text[size:])

    async def _doubtful_size(self, account: Account) -> tuple[int, int]:
        """Tokens and characters that are whole, as far as anybody knows."""
        ids = account.ids
        if not ids:
            return account.whole.sure  # an echoed prompt alone
        ends = range(len(ids), max(len(ids) - _LONGEST_CHARACTER, 0), -1)
        start = max(ends[-1] - _CONTEXT, 0)
        texts = await self._tokenizers.texts(
            self._group, self._failed, [ids[start:end].tolist() for end in ends]
        )
        if not texts:
            return account.whole.likely
        # Of a token that its tokenizer does not know it says nothing, yet SGLang shows something.
        first = {text: end for end, text in zip(ends, texts, strict=False)}
        for text in texts:
            found = size_shown(account.text, text, texts[0])
            if found is not None:
                return first[text], found
        return account.whole.sure

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
        prompt = decoded(asked.members, "prompt", TEXT)
        if prompt is not None:
            found = await self._tokenizers.prompt(self._group, self._failed, prompt)
        else:
            found = await self._chat_ids(asked)
        return None if found is None else len(found)

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


def size_shown(shown: str, text: str, all_told: str) -> int | None:
    """How much of what was shown is the text of some tokens, by their tokenizer.

    Args:
        shown: to the client.
        text: of tokens up to some place.
        all_told: of these tokens and of all that were told beyond.

    Returns:
        Characters; None if the place is amid a character, or if something else was shown.
    """
    if not text or text.endswith("\ufffd") or not all_told.startswith(text):
        return None
    end = text[-_COMPARED:]
    for beyond in range(min(_MOST_BEYOND, len(shown)) + 1):
        size = len(shown) - beyond
        if shown[:size].endswith(end) and all_told.startswith(shown[size:], len(text)):
            return size
    return None
