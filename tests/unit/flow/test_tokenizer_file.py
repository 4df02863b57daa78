"""Tokenizers that the settings name."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from proxy.flow.continuation import tokenizer_file
from proxy.flow.continuation.tokenizer_file import Named, TokenizerFiles, named
from tests.support.tokenizer_files import write_tokenizer
from workers.engine.oracle import Model, completion, detokenize, tokenize

TEXTS = ["the dragon", " two words", "no word here: thereof the", "", "東京 🙂 café\n\n", " the" * 500]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path)


@pytest.mark.parametrize("text", TEXTS)
async def test_ids_are_those_that_an_engine_makes(path: Path, text: str) -> None:
    files = TokenizerFiles([named(str(path))])
    assert await files.ids("any", text, special=True) == tokenize(text)


async def test_texts_are_those_that_an_engine_makes(path: Path) -> None:
    ids = list(completion("once", 40, Model(split_characters=True)).ids)
    lists = [ids[:size] for size in range(1, 40)]
    files = TokenizerFiles([named(str(path))])
    assert await files.texts("any", lists) == [detokenize(one) for one in lists]


async def test_a_model_has_its_own_before_that_of_all(tmp_path: Path, path: Path) -> None:
    library = pytest.importorskip("tokenizers")
    (tmp_path / "other").mkdir()
    other = library.Tokenizer(library.models.WordLevel({"one": 7, "?": 0}, unk_token="?"))
    other.save(str(tmp_path / "other" / "tokenizer.json"))
    of_one = named(f"org/one={tmp_path / 'other'}")
    files = TokenizerFiles([of_one, named(str(path))])
    assert await files.ids("org/one", "one", special=True) == [7]
    assert await files.ids("another", "one", special=True) == tokenize("one")
    assert await TokenizerFiles([of_one]).ids("another", "one", special=True) is None
    assert await TokenizerFiles([of_one]).texts("another", [[7]]) is None


@pytest.mark.parametrize(
    ("value", "told"),
    [("{}/absent", "there is no file"), ("{}", "there is no file"), ("{}/bad.json", "is no tokenizer.json")],
)
def test_what_cannot_be_used_is_said_at_once(tmp_path: Path, value: str, told: str) -> None:
    pytest.importorskip("tokenizers")
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(ValueError, match=told):
        named(value.format(tmp_path))


async def test_a_text_is_neither_cut_short_nor_filled_up_whatever_the_file_says(path: Path) -> None:
    library = pytest.importorskip("tokenizers")
    made = library.Tokenizer.from_file(str(path))
    made.enable_truncation(max_length=2)
    made.enable_padding(length=99)
    made.save(str(path))
    files = TokenizerFiles([named(str(path))])
    assert await files.ids(None, "the dragon and the castle", special=True) == tokenize(
        "the dragon and the castle"
    )


def test_a_file_over_the_bound_is_not_loaded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_file, "_MOST_FILE_BYTES", 1000)
    with pytest.raises(ValueError, match="at most"):
        named(str(path))


def test_without_the_library_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(tokenizer_file, "import_module", absent)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="pip install"):
        named(str(tmp_path))


def test_each_file_is_loaded_once(path: Path) -> None:
    one, other = named(str(path)), named(f"a={path}")
    assert tokenizer_file.load(one.path) is tokenizer_file.load(other.path)


class Slow:
    """A tokenizer that works only when it is let."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.threads: list[str] = []

    def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> list[object]:
        self.threads.append(threading.current_thread().name)
        assert self.let.wait(10)
        return [self]

    def decode_batch(self, lists: list[list[int]]) -> list[str]:
        raise OverflowError

    @property
    def ids(self) -> list[int]:
        return [1, 2]


async def test_work_is_done_beside_the_loop_and_waits_in_a_bounded_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = Slow()
    monkeypatch.setattr(tokenizer_file, "load", lambda path: slow)
    monkeypatch.setattr(tokenizer_file, "_MOST_WAITING", 2)
    files = TokenizerFiles([Named(None, Path())])
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(files.ids(None, "a", special=False)) for _ in range(2)]
        while not slow.threads:
            await asyncio.sleep(0.001)
        assert await files.ids(None, "a", special=False) is None, "the line is full"
        slow.let.set()
    assert [task.result() for task in waiting] == [[1, 2], [1, 2]]
    assert await files.ids(None, "a", special=False) == [1, 2], "there is room again"
    assert set(slow.threads) == {"tokenizer_0"}, "one thread"
    assert files._waiting == 0


async def test_what_takes_too_long_or_is_too_long_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    monkeypatch.setattr(tokenizer_file, "load", lambda path: slow)
    monkeypatch.setattr(tokenizer_file, "_ANSWER_S", 0.01)
    monkeypatch.setattr(tokenizer_file, "_LONGEST_TEXT", 3)
    files = TokenizerFiles([Named(None, Path())])
    assert await files.ids(None, "abcd", special=False) is None
    assert not slow.threads, "it was not even tried"
    assert await files.ids(None, "abc", special=False) is None
    slow.let.set()
    monkeypatch.setattr(tokenizer_file, "_ANSWER_S", 10)
    assert await files.texts(None, [[-1]]) is None
