"""What a stream has told its client so far: enough to go on from there."""

from __future__ import annotations

import re
from array import array
from typing import Protocol

import msgspec

from proxy.flow.continuation.printable import Whole, may_lack_more

_OBJECTS = re.compile(rb"^data: ?(\{.*)", re.MULTILINE)
# OverflowError: a number that is no token's id.
_UNREADABLE = (msgspec.DecodeError, RecursionError, OverflowError)
_ID = "i"  # why: 32 bits hold the ids of any vocabulary, and many streams remember thousands of them


class Account(Protocol):
    """Reads the events that went to the client, in order; has no part in sending them."""

    text: str
    """All that was shown. A stream never shows a part of a character: what is here is whole."""
    ids: array[int] | None
    """Of all tokens told; None where the stream does not tell them."""
    seam: int
    """Tokens whose text is shown. Those told beyond it are part of an incomplete character."""
    told: int
    """Tokens told, shown or not."""
    counted: bool
    """Whether `seam` and `told` are the engine's own count; else every event counts as a token."""
    finished: bool
    """Whether a finish reason was told."""
    obstacle: str | None
    """What in the stream makes a continuation impossible."""
    prompt_tokens: int | None
    identity: dict[str, msgspec.Raw]
    """What all events of one answer have in common: id, created, model."""
    last: bytes
    """The data of the last event that told something of the answer."""
    whole: Whole
    """Places where the text and the tokens agree; kept where the ids are told."""

    def read(self, events: bytes) -> None:
        """Takes in whole events, the workers' chunk framing around them or not."""

    @property
    def size_bytes(self) -> int:
        """About what it holds."""
        ...


# gc=False: an event's parts form no cycles, and tracking them would cost as much as making them.
class _Reason(msgspec.Struct, gc=False):
    """A finish reason: that there is one is enough."""


class _Meta(msgspec.Struct, gc=False):
    finish_reason: _Reason | None = None
    completion_tokens: int | None = None


class _Generated(msgspec.Struct, gc=False):
    meta_info: _Meta
    text: str = ""
    output_ids: list[int] | None = None
    index: int | None = None


class _FirstMeta(msgspec.Struct, gc=False):
    id: msgspec.Raw
    prompt_tokens: int | None = None


class _FirstGenerated(msgspec.Struct, gc=False):
    meta_info: _FirstMeta


_decode_first_generated = msgspec.json.Decoder(_FirstGenerated).decode
_decode_generated = msgspec.json.Decoder(list[_Generated]).decode


class GenerateAccount:
    """Of /generate: each event tells all so far, or only what is new."""

    def __init__(self) -> None:
        self.text = ""
        self.ids: array[int] | None = array(_ID)
        self.seam = self.told = 0
        self.counted = True
        self.finished = False
        self.obstacle: str | None = None
        self.prompt_tokens: int | None = None
        self.identity: dict[str, msgspec.Raw] = {}
        self.last = b""
        self.cumulative: bool | None = None
        """Known from the second event on."""
        self.whole = Whole()
        self._length = 0

    def read(self, events: bytes) -> None:
        """Takes in events."""
        found = _events(events)
        shown: list[str] = []
        try:
            if found and not self.identity:
                meta = _decode_first_generated(found[0]).meta_info
                self.identity = {"id": msgspec.Raw(bytes(meta.id))}
                self.prompt_tokens = meta.prompt_tokens
            told = _decode_generated(_array(found))
            if self.cumulative is False and self._is_plain(told):
                self._tell_all(told, shown)
                self.last = found[-1]
            else:
                for event, data in zip(told, found, strict=True):
                    self._tell(event, shown)
                    self.last = data
        except _UNREADABLE:
            self.obstacle = "an event of unknown shape"
        self.text += "".join(shown)

    def _is_plain(self, events: list[_Generated]) -> bool:
        """Whether these are new tokens with their ids, and nothing else."""
        if not events or self.ids is None:
            return False
        # A batch names its items in every event, and a finish reason stands in the last one only.
        first, last = events[0], events[-1]
        return first.index is None and last.meta_info.finish_reason is None and self._counts_on(events)

    def _counts_on(self, events: list[_Generated]) -> bool:
        """Whether every token told is an id told."""
        news = sum([len(event.output_ids or ()) for event in events])
        return self.told + news == events[-1].meta_info.completion_tokens

    def _tell_all(self, events: list[_Generated], shown: list[str]) -> None:
        """As `_tell` for each, in a third of the time."""
        assert self.ids is not None
        for event in events:
            self.ids.extend(event.output_ids or ())
        texts = [event.text for event in events]
        counts = [self.told, *[event.meta_info.completion_tokens or 0 for event in events]]
        shown += texts
        length = self._length = self._length + len("".join(texts))
        # Whatever was shown before the last sure place is of no interest.
        first = len(texts)
        while first > 0:
            first -= 1
            length -= len(texts[first])
            if texts[first] and not may_lack_more(texts[first]):
                break
        for at in range(first, len(texts)):
            text = texts[at]
            if text:
                length += len(text)
                self.seam = counts[at + 1]
                self.whole.shown(text, counts[at + 1] - counts[at], (self.seam, length))
        self.told = counts[-1]

    def _tell(self, event: _Generated, shown: list[str]) -> None:
        meta, text, ids = event.meta_info, event.text, event.output_ids
        told = self.told + 1 if meta.completion_tokens is None else meta.completion_tokens
        if self.cumulative is None and self.last:
            self.cumulative = len(ids) == told if ids is not None else text.startswith(self.text)
        if self.cumulative is False:
            grown = bool(text)
            shown.append(text)
            if self.ids is not None and ids is not None:
                self.ids.extend(ids)
        else:
            grown, self.text = text != self.text, text
            self.ids = None if ids is None else array(_ID, ids)
        if ids is None or (self.ids is not None and len(self.ids) != told):
            self.ids = None
        if grown:
            self._length = len(text) if self.cumulative is not False else self._length + len(text)
            self.seam = told
            if text:
                self.whole.shown(text, told - self.told, (told, self._length))
        self.told = told
        if meta.finish_reason is not None:
            self.finished = True
        if event.index is not None:
            self.obstacle = "a batch"

    @property
    def size_bytes(self) -> int:
        """About what it holds."""
        return len(self.text) + len(self.last) + (4 * len(self.ids) if self.ids is not None else 0)


class _Entries(msgspec.Struct, gc=False):
    tokens: list[msgspec.Raw] = []
    content: list[msgspec.Raw] | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    logprobs: _Entries | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int
    completion_tokens: int


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice]
    usage: _Usage | None = None


class _FirstChunk(msgspec.Struct, gc=False):
    id: msgspec.Raw
    created: msgspec.Raw
    model: msgspec.Raw


_decode_first_chunk = msgspec.json.Decoder(_FirstChunk).decode
_decode_chunks = msgspec.json.Decoder(list[_Chunk]).decode


class OpenAIAccount:
    """Of a completion or a chat: each event tells what is new."""

    def __init__(self) -> None:
        self.text = ""
        self.ids: array[int] | None = None
        self.seam = self.told = 0
        self.counted = True
        self.finished = False
        self.obstacle: str | None = None
        self.prompt_tokens: int | None = None
        self.prompt_ids: list[int] | None = None
        """Of the prompt, where the client asked for them."""
        self.identity: dict[str, msgspec.Raw] = {}
        self.last = b""
        self.usage_told = False
        """Whether the chunk that tells the usage of the whole was there."""
        self.whole = Whole()
        self._length = 0

    def read(self, events: bytes) -> None:
        """Takes in events."""
        found = _events(events)
        shown: list[str] = []
        try:
            if found and not self.identity:
                first = _decode_first_chunk(found[0])
                self.identity = {
                    name: msgspec.Raw(bytes(getattr(first, name))) for name in ("id", "created", "model")
                }
            for chunk, data in zip(_decode_chunks(_array(found)), found, strict=True):
                if chunk.usage is not None:
                    self.prompt_tokens = chunk.usage.prompt_tokens
                    self.usage_told = not chunk.choices
                for choice in chunk.choices:
                    self.last = data
                    self._tell(choice, chunk.usage, shown)
        except _UNREADABLE:
            self.obstacle = "an event of unknown shape"
        self.text += "".join(shown)

    def _tell(self, choice: _Choice, usage: _Usage | None, shown: list[str]) -> None:
        delta = choice.delta
        if delta is None:
            text = choice.text
        else:
            text = delta.content
            if delta.reasoning_content:
                self.obstacle = "reasoning content"
            if delta.tool_calls:
                self.obstacle = "a tool call"
        if usage is not None or choice.logprobs is not None or choice.token_ids is not None:
            self._count(choice, usage)
        elif text or (delta is None and choice.finish_reason is None):
            # A chat tells nothing of a token without text; a completion has an event for it.
            self.told += 1
            self.counted = False
        if choice.token_ids is not None and (self.ids is not None or not self.seam):
            self.ids = self.ids or array(_ID)
            self.ids.extend(choice.token_ids)
            self.prompt_ids = self.prompt_ids or choice.prompt_token_ids
            if text:
                self._length += len(text)
                self.whole.shown(text, len(choice.token_ids), (self.told, self._length))
        elif text:
            self.ids = None
        if text:
            shown.append(text)
            self.seam = self.told
        if choice.finish_reason is not None:
            self.finished = True
        if choice.index:
            self.obstacle = "a batch"

    def _count(self, choice: _Choice, usage: _Usage | None) -> None:
        entries = choice.logprobs
        if usage is not None:
            self.told = usage.completion_tokens
        elif choice.token_ids is not None:
            self.told += len(choice.token_ids)
        elif entries is not None and entries.content is None:
            self.told += len(entries.tokens)
        elif entries is not None:
            # A chat keeps silent of a token without text, and its entry is never told.
            self.told += len(entries.content or ())
            self.counted = False

    @property
    def size_bytes(self) -> int:
        """About what it holds."""
        return len(self.text) + len(self.last) + (4 * len(self.ids) if self.ids is not None else 0)


def _events(read: bytes) -> list[bytes]:
    """The events' JSON; a line is found faster than an event, and each has one."""
    found: list[bytes] = _OBJECTS.findall(read)
    return found


def _array(found: list[bytes]) -> bytes:
    """All at once: a decoder's call for each costs as much as the decoding."""
    return b"[%b]" % b",".join(found)
