"""Tokenizers that the settings name: of engines that cannot be asked for token ids, as 0.5.2.

They are loaded once, at the start; encoding runs in one thread, so that it never holds up a stream. Of the
library's calls only `encode_batch_fast` lets other threads run meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

_T = TypeVar("_T")

_MOST_FILE_BYTES = 128 * 1024 * 1024  # why: the largest vocabularies known, of 260,000 tokens, take 35 MB
_LONGEST_TEXT = 4 * 1024 * 1024  # why: a second of work; what is longer is continued by its text
_MOST_WAITING = 1024
_ANSWER_S = 2.0  # why: the client waits


class Named(NamedTuple):
    """A tokenizer as the settings name it."""

    model: str | None
    """None: of every model that has none of its own."""
    path: Path


class Tokenizer(Protocol):
    """What is used of the library's, which few need: it is an extra."""

    def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> list[Any]:
        """One encoding a text."""
        ...

    def decode_batch(self, lists: list[list[int]]) -> list[str]:
        """One text a list of ids, special tokens left out."""
        ...


def named(value: str) -> Named:
    """Reads `PATH` or `MODEL=PATH`; a path is a tokenizer.json, or the folder that it is in.

    Raises:
        ValueError: no such file can be used; says why.
    """
    model, equals, place = value.rpartition("=")
    path = Path(place).expanduser()
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"{value!r}: there is no file {path}")
    load(path)
    return Named(model if equals else None, path)


@cache
def load(path: Path) -> Tokenizer:
    """A tokenizer, each file's once.

    Raises:
        ValueError: it cannot be used; says why.
    """
    try:
        library = import_module("tokenizers")
    except ImportError:
        raise ValueError(
            "a tokenizer needs the package tokenizers: pip install 'pd-proxy[tokenizer]'"
        ) from None
    size_bytes = path.stat().st_size
    if size_bytes > _MOST_FILE_BYTES:
        raise ValueError(f"{path} has {size_bytes} bytes; a tokenizer has {_MOST_FILE_BYTES} at most")
    try:
        made = library.Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises nothing narrower
        raise ValueError(f"{path} is no tokenizer.json: {error}") from None
    # Both are kept in the file, and would change what an engine's own tokenizer makes of a text.
    made.no_truncation()
    made.no_padding()
    tokenizer: Tokenizer = made
    return tokenizer


class TokenizerFiles:
    """The tokenizers of the settings, and the thread that they work in."""

    def __init__(self, files: Iterable[Named]) -> None:
        """Takes files that `named` has let pass."""
        self._tokenizers = {model: load(path) for model, path in files}
        self._thread: ThreadPoolExecutor | None = None
        self._waiting = 0

    async def ids(self, model: str | None, text: str, *, special: bool) -> list[int] | None:
        """Ids of a text; None without a tokenizer, or if it takes too long.

        Args:
            model: whose tokenizer.
            text: what is to be cut.
            special: whether it is a whole prompt, with what the tokenizer puts around one.
        """
        tokenizer = self._of(model)
        if tokenizer is None or len(text) > _LONGEST_TEXT:
            return None

        def encode() -> list[int]:
            ids: list[int] = tokenizer.encode_batch_fast([text], add_special_tokens=special)[0].ids
            return ids

        return await self._work(encode)

    async def texts(self, model: str | None, lists: list[list[int]]) -> list[str] | None:
        """The text of each list of ids; None without a tokenizer, or if it takes too long."""
        tokenizer = self._of(model)
        return None if tokenizer is None else await self._work(lambda: tokenizer.decode_batch(lists))

    def _of(self, model: str | None) -> Tokenizer | None:
        return self._tokenizers.get(model) or self._tokenizers.get(None)

    async def _work(self, work: Callable[[], _T]) -> _T | None:
        if self._waiting >= _MOST_WAITING:
            return None
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "tokenizer")
        self._waiting += 1
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (TimeoutError, OverflowError):  # the latter: an id below 0 or above all that fit
            return None
        finally:
            self._waiting -= 1
