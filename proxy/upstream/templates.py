"""Heads repeat: those of one sender differ in their Content-Length at most, so each kind is parsed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

_SPELLINGS = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_NAME = len(_SPELLINGS[0])
_MOST_DIGITS = 15
_LONGEST = 4096
_MOST = 1024

Parsed = TypeVar("Parsed")


class Templates(Generic[Parsed]):
    """Remembers what heads mean, by all their bytes but the digits of their Content-Length.

    Other digits in that place change neither a head's validity nor its meaning otherwise, for
    a second Content-Length would be part of what is compared.
    """

    __slots__ = ("_known", "_parse", "_rare", "_usual")

    def __init__(self, parse: Callable[[bytes], Parsed], *, lower_case: bool) -> None:
        """Remembers for `parse`, which takes a whole head; what it raises is not remembered.

        `lower_case`: whether most senders write their Content-Length so.
        """
        self._parse = parse
        self._usual, self._rare = reversed(_SPELLINGS) if lower_case else _SPELLINGS
        self._known: dict[bytes, Parsed] = {}

    def read(self, data: bytes, end: int) -> tuple[Parsed, int | None]:
        """What the head `data[:end]` means, its Content-Length apart (None: it has none in a common form)."""
        start = data.find(self._usual, 0, end)
        if start < 0:
            start = data.find(self._rare, 0, end)
        if start >= 0:
            start += _NAME
            stop = data.find(b"\r\n", start)
            digits = data[start:stop]
            if digits.isdigit() and stop - start <= _MOST_DIGITS:
                key = data[:start] + data[stop:end]
                return self._known.get(key) or self._learn(key, data[:end]), int(digits)
        key = data[:end]
        return self._known.get(key) or self._learn(key, key), None

    def _learn(self, key: bytes, head: bytes) -> Parsed:
        parsed = self._parse(head)
        if len(head) <= _LONGEST:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[key] = parsed
        return parsed
