"""Token ids of a text, and the reverse, asked of a worker.

0.5.2 has neither route: then a tokenizer that the settings name answers, if there is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from proxy.errors import UpstreamFailure
from proxy.flow.continuation.chat_ids import ChatIds
from proxy.flow.continuation.tokenizer_file import TokenizerFiles
from proxy.routing.group import Group
from proxy.routing.member import Member
from proxy.upstream.inquiries import Inquiries

_ANSWER_S = 2.0  # why: the client waits; a tokenizer answers in milliseconds, or its worker is in trouble
_WORKERS_ASKED = 3
_MOST_VERSIONS = 64


class _Tokens(msgspec.Struct):
    tokens: list[int]


class _Texts(msgspec.Struct):
    text: list[str]


_decode = msgspec.json.Decoder(_Tokens).decode
_decode_texts = msgspec.json.Decoder(_Texts).decode


class Tokenizers:
    """Asks; remembers which engine versions cannot answer."""

    def __init__(self, inquiries: Inquiries, files: TokenizerFiles) -> None:
        """Takes whom to ask, and what answers where nobody does."""
        self._inquiries = inquiries
        self._files = files
        self.chats = ChatIds(inquiries)
        self._without: set[str] = set()

    async def prompt(self, group: Group, avoid: str, prompt: str) -> list[int] | None:
        """Ids of a prompt; None if nobody tells.

        Args:
            group: whose model it is.
            avoid: a worker that has just failed, by its id: the last to be asked.
            prompt: a text.
        """
        found = await self.of(group, avoid, {"prompt": prompt})
        return found if found is not None else await self._files.ids(group.model, prompt, special=True)

    async def text(self, group: Group, avoid: str, text: str) -> list[int] | None:
        """Ids of a text that stands in the middle of a sequence."""
        found = await self.of(group, avoid, {"prompt": text, "add_special_tokens": False})
        return found if found is not None else await self._files.ids(group.model, text, special=False)

    async def of(self, group: Group, avoid: str, question: Mapping[str, object]) -> list[int] | None:
        """Ids that a worker makes of `question`, a body of /tokenize; None if none tells."""
        answer = await self._ask(group, avoid, "/tokenize", question)
        try:
            return None if answer is None else _decode(answer).tokens
        except (msgspec.DecodeError, RecursionError):
            return None

    async def texts(self, group: Group, avoid: str, lists: list[list[int]]) -> list[str] | None:
        """The text of each list of ids."""
        answer = await self._ask(group, avoid, "/detokenize", {"tokens": lists})
        if answer is None:
            return await self._files.texts(group.model, lists)
        try:
            return _decode_texts(answer).text
        except (msgspec.DecodeError, RecursionError):
            return None

    async def _ask(self, group: Group, avoid: str, path: str, question: Mapping[str, object]) -> bytes | None:
        for member in self._candidates(group, avoid):
            version = member.worker.engine_version
            if version in self._without:
                continue
            try:
                answer = await self._inquiries.ask(member.worker, "POST", path, _ANSWER_S, body=question)
            except UpstreamFailure:
                continue
            if answer.status in (404, 405):
                # An unknown version may be another worker's too: that one is asked again next time.
                if version is not None and len(self._without) < _MOST_VERSIONS:
                    self._without.add(version)
                continue
            return answer.body if answer.ok else None
        return None

    def _candidates(self, group: Group, avoid: str) -> Iterator[Member]:
        members = [one for one in group.members.values() if one.probe_ok is not False]
        members.sort(key=lambda one: (one.worker.worker_id == avoid, one.in_flight))
        return iter(members[:_WORKERS_ASKED])
