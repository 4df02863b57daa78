"""Heads repeat: those of one sender differ in their Content-Length at most, so each kind is parsed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

_NAME = len(b"\r\nContent-Length: ")
_MOST_DIGITS = 15
_LONGEST = 4096
_MOST = 1024

Parsed = TypeVar("Parsed")


class Templates(Generic[Parsed]):
    """Remembers what heads mean, by all their bytes but the digits of their Content-Length.

    Other digits in that place change neither a head's validity nor its meaning otherwise, for
    a second Content-Length would be part of what is compared.
    """

    __slots__ = ("_known", "_parse")

    def __init__(self, parse: Callable[[bytes], Parsed]) -> None:
        """Remembers for `parse`, which takes a whole head; what it raises is not remembered."""
        self._parse = parse
        self._known: dict[bytes, Parsed] = {}

    def read(self, head: bytes) -> tuple[Parsed, int | None]:
        """What a head means, its Content-Length apart (None: it has none in the usual form)."""
        start = head.find(b"\r\nContent-Length: ")
        if start < 0:
            start = head.find(b"\r\ncontent-length: ")
        key, length = head, None
        if start >= 0:
            start += _NAME
            end = head.find(b"\r\n", start)
            digits = head[start:end]
            if digits.isdigit() and end - start <= _MOST_DIGITS:
                key, length = head[:start] + head[end:], int(digits)
        parsed = self._known.get(key)
        if parsed is None:
            parsed = self._parse(head)
            if len(head) <= _LONGEST:
                if len(self._known) >= _MOST:
                    self._known.clear()
                self._known[key] = parsed
        return parsed, length
