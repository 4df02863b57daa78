"""The console shows the engine's log and our lines, and holds up nobody when it is not read."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from workers.console import Console


class Pipe:
    """A console's other end, read by a thread unless it shall stall."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self._shown = bytearray()

    def start_reading(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while data := os.read(self.read_end, 65536):
            self._shown += data

    @property
    def shown(self) -> str:
        return bytes(self._shown).decode()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    os.close(made.write_end)


def until(true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_what_the_engine_writes_is_shown_from_where_we_came_in(pipe: Pipe, tmp_path: Path) -> None:
    pipe.start_reading()
    path = tmp_path / "decode_NODE0.log"
    path.write_text("of an earlier run\n")
    console = Console(pipe.write_end)
    console.follow(path, path.stat().st_size)
    with path.open("a") as file:
        for number in range(3):
            file.write(f"line {number}\n")
            file.flush()
            until(lambda number=number: f"line {number}\n" in pipe.shown)  # type: ignore[misc]
    console.say("ours")
    until(lambda: pipe.shown == "line 0\nline 1\nline 2\nours\n")
    console.close()


def test_a_log_that_comes_later_is_followed(pipe: Pipe, tmp_path: Path) -> None:
    pipe.start_reading()
    console = Console(pipe.write_end)
    console.follow(tmp_path / "later.log", 0)
    (tmp_path / "later.log").write_text("here\n")
    until(lambda: pipe.shown == "here\n")
    console.close()


def test_the_last_words_are_shown_even_without_an_end_of_line(pipe: Pipe, tmp_path: Path) -> None:
    pipe.start_reading()
    path = tmp_path / "log"
    console = Console(pipe.write_end)
    console.follow(path, 0)
    path.write_text("whole\nhalf a li")
    console.say("ours")
    console.close()
    until(lambda: "whole\n" in pipe.shown and "half a li" in pipe.shown and "ours\n" in pipe.shown)


def test_a_truncated_log_is_followed_from_its_new_beginning(pipe: Pipe, tmp_path: Path) -> None:
    pipe.start_reading()
    path = tmp_path / "log"
    path.write_text("before the rotation, long\n")
    console = Console(pipe.write_end)
    console.follow(path, 0)
    until(lambda: "rotation" in pipe.shown)
    path.write_text("after\n")
    until(lambda: pipe.shown.endswith("after\n"))
    console.close()


def test_a_stalled_console_blocks_nobody_and_says_what_it_has_skipped(pipe: Pipe, tmp_path: Path) -> None:
    path = tmp_path / "log"
    console = Console(pipe.write_end)
    console.follow(path, 0)
    line = "x" * 999 + "\n"
    with path.open("a") as file:
        file.write(line * 100)
        file.flush()
        time.sleep(0.3)  # the pipe (64 KB) is full now, and the thread stands in a write
        file.write(line * 5000)
    for number in range(5000):  # would never return if it blocked
        console.say(f"ours {number}")
    pipe.start_reading()
    until(lambda: "are in" in pipe.shown and "ours 4999\n" in pipe.shown)
    assert "ours 0\n" not in pipe.shown
    assert console.skipped_bytes > 3_000_000
    console.close()


def test_a_console_whose_reader_has_gone_ends_quietly(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    console = Console(write_end)
    console.say("nobody hears")
    console.say("this either")
    console.close()
    os.close(write_end)
