"""The model: what comes after a sequence of tokens. Deterministic, so that a test can know every answer.

The next token is a function of the whole sequence so far (a running hash), of nothing else: temperature and
seed do not matter. `completion(prompt + first k tokens, n - k)` goes on exactly as `completion(prompt, n)`.

The tokenizer is trivial: a known word with its leading space is one id, everything else is UTF-8 bytes
(ids 0 to 255). The model never prints what would read back as other ids, so text and ids are interchangeable.
"""

from __future__ import annotations

import codecs
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

_TEXT = """
the a of and to in that it with as for was on are by be this from or one had but not what all were
when we there can an your which their said if do will each about how up out them then she many some
so these would other into has more her two like him see time could no make than first been its who
now people my made over did down only way find use may water long little very after words called
just where most know get through back much before go good new write our used me man too any day same
right look think also around another came come work three word must because does part even place
well such here take why help river mountain story dragon castle forest lantern winter garden silver
engine harbor signal copper letter naïve café Zürich 東京 привет señor façade мир 語 été
"""
_WORDS = _TEXT.split()
_FIRST_WORD_ID = 256
_WORD_IDS = {f" {word}": _FIRST_WORD_ID + index for index, word in enumerate(_WORDS)}
_PIECES = [bytes([byte]) for byte in range(256)] + [f" {word}".encode() for word in _WORDS]
EOS_ID = len(_PIECES)
# A word stands alone only if no letter follows: " there" is not " the" + "re".
_WORD = re.compile(r" [^\W\d_]+")
_MARKS = b",.!\n"
# None of these is a letter, so printing one byte by byte never changes how the word before it reads.
_CHARACTERS = tuple(char.encode() for char in "🙂🚀🌊€→«»…“”")
_LONGEST_TAIL = 3


def tokenize(text: str) -> list[int]:
    """Ids of `text`; surrogates become question marks."""
    ids: list[int] = []
    done = 0
    for match in _WORD.finditer(text):
        word = _WORD_IDS.get(match[0])
        if word is not None:
            ids.extend(text[done : match.start()].encode("utf-8", "replace"))
            ids.append(word)
            done = match.end()
    ids.extend(text[done:].encode("utf-8", "replace"))
    return ids


def piece(token: int) -> bytes:
    """Bytes that `token` prints; an id outside of the vocabulary, and the end of sequence, print none."""
    return _PIECES[token] if 0 <= token < EOS_ID else b""


def detokenize(ids: Iterable[int]) -> str:
    """Text of whole `ids`; what is no UTF-8 becomes U+FFFD."""
    return b"".join(map(piece, ids)).decode("utf-8", "replace")


class Detokenizer:
    """Text as a stream shows it: an incomplete character is held back until it is complete, or the end."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that `token` adds."""
        return self._decoder.decode(piece(token))

    @property
    def amid(self) -> bool:
        """Whether the last token has left a character incomplete."""
        return bool(self._decoder.getstate()[0])

    def finish(self) -> str:
        """What was held back, as U+FFFD."""
        return self._decoder.decode(b"", True)


def printable(text: str) -> str:
    """What a stream shows of a new text behind which an incomplete character stands.

    As SGLang has it: all if a Chinese character is its last, else what lies up to the last space.
    """
    if "\u4e00" <= text[-1:] <= "\u9fff":
        return text
    return text[: text.rfind(" ") + 1]


class Context:
    """A sequence of tokens as the model remembers it: its KV cache, in sixteen bytes."""

    def __init__(self, ids: Sequence[int], damage: bytes = b"") -> None:
        """`damage`: a wrong KV (nothing, or another prompt's) changes all that follows."""
        self._hash = blake2b(array("q", ids).tobytes(), digest_size=16)
        if damage:
            self._hash.update(damage)
        self._tail = b"".join(map(piece, ids[-_LONGEST_TAIL:]))[-_LONGEST_TAIL:]

    def append(self, token: int) -> None:
        """Adds a token."""
        self._hash.update(token.to_bytes(8, "little"))
        self._tail = (self._tail + piece(token))[-_LONGEST_TAIL:]

    def digest(self) -> bytes:
        """What two servers compare to know that they mean the same sequence."""
        return self._hash.digest()

    def half_character(self) -> bytes:
        """The bytes of an incomplete character at the end, or none."""
        for size in range(_LONGEST_TAIL, 0, -1):
            tail = self._tail[-size:]
            if len(tail) == size and tail[0] >= 0xC0 and all(0x80 <= byte < 0xC0 for byte in tail[1:]):
                return tail
        return b""


@dataclass(frozen=True, slots=True)
class Model:
    """How the text looks. Engines of one model must agree on both."""

    split_characters: bool = False
    """Some characters are printed as several tokens, a byte each."""
    mean_output_tokens: int = 0
    """An output ends by itself with a chance of one in so many at each token; 0: never."""

    def next_token(self, context: Context, may_end: bool = True) -> int:
        """The token that follows `context`; EOS_ID only if `may_end`."""
        number = int.from_bytes(context.digest()[:8], "little")
        half = context.half_character()
        started = [char for char in _CHARACTERS if len(char) > len(half) and char.startswith(half)]
        if half and started:
            return started[number % len(started)][len(half)]
        if may_end and self.mean_output_tokens and (number >> 40) % self.mean_output_tokens == 0:
            return EOS_ID
        kind = (number >> 32) % 16
        if kind == 0:
            return _MARKS[number % len(_MARKS)]
        if kind < 3 and self.split_characters:
            return _CHARACTERS[number % len(_CHARACTERS)][0]
        return _FIRST_WORD_ID + number % len(_WORDS)


def logprob(token: int, context_digest: bytes, rank: int = 0) -> float:
    """A made-up but repeatable log probability."""
    return -((token * 31 + context_digest[0] + rank * 977) % 4096) / 512 - rank


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine must answer."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    """The text that each token adds as a stream shows it; the last one includes what was held back."""

    @property
    def text(self) -> str:
        """The whole output."""
        return "".join(self.texts)


def completion(
    prompt: str | Sequence[int], n_tokens: int, model: Model = Model(), ignore_eos: bool = False
) -> Completion:
    """The one right answer of `n_tokens` (fewer if the model ends) to `prompt`."""
    context = Context(tokenize(prompt) if isinstance(prompt, str) else prompt)
    shown = Detokenizer()
    ids: list[int] = []
    texts: list[str] = []
    while len(ids) < n_tokens and ids[-1:] != [EOS_ID]:
        token = model.next_token(context, may_end=not ignore_eos)
        context.append(token)
        ids.append(token)
        texts.append(shown.push(token))
    if texts:
        texts[-1] += shown.finish()
    return Completion(tuple(ids), tuple(texts))


def chat_prompt(messages: Sequence[Mapping[str, Any]], continue_final_message: bool = False) -> str:
    """The chat template: what a conversation becomes. Content parts that are not text are left out.

    A last message of the assistant's is gone on with, or else taken for one of the user's, as SGLang does.
    """
    turns = [f"<|{message.get('role', 'user')}|>{_content(message)}" for message in messages]
    last = messages[-1] if messages else {}
    if last.get("role") == "assistant" and isinstance(last.get("content"), str):
        if continue_final_message:
            return "\n".join(turns)
        turns[-1] = f"<|user|>{_content(last)}"
    return "\n".join([*turns, "<|assistant|>"])


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
