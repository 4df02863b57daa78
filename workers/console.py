"""The console: the engine's output and our own lines, in an order that people can follow, never in the way.

The engine writes into its log file by itself, so nothing here can hold it up. One thread follows that file
and writes what is new to the console; our own lines go through the same thread. A console that does not
take them (a stalled pipe) costs lines on the console, and nothing else: they are counted, and the count is
said.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

_LOOK_S = 0.1
_READ_BYTES = 64 * 1024
_BEHIND_BYTES = 1024 * 1024
"""What a slow console may be behind; more than that of the engine's output is skipped."""
_OWN_LINES = 1000
_LAST_WORDS_S = 1.0


class Console:
    """Owns the thread. `say` may be called from anywhere and never blocks."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._own: deque[bytes] = deque(maxlen=_OWN_LINES)
        self._wake = threading.Event()
        self._ending = False
        self._dead = False
        self._path: Path | None = None
        self._at = 0
        self.skipped_bytes = 0
        """Of the engine's output that was not shown."""
        self._thread = threading.Thread(target=self._run, name="console", daemon=True)
        self._thread.start()

    def say(self, line: str) -> None:
        """Shows a line of our own; the oldest are lost when too many wait."""
        self._own.append(line.encode(errors="replace") + b"\n")
        self._wake.set()

    def follow(self, path: Path, offset: int) -> None:
        """Shows from now on what is written to `path` beyond `offset`; call it once."""
        self._at, self._path = offset, path

    def close(self) -> None:
        """Shows what is left, as far as the console takes it within a second."""
        self._ending = True
        self._wake.set()
        self._thread.join(_LAST_WORDS_S)

    def _run(self) -> None:
        while True:
            ending = self._ending  # looked at first, so that the last round sees the last words
            self._wake.wait(_LOOK_S)
            self._wake.clear()
            self._show_engine(to_the_end=ending)
            self._show_own()
            if ending or self._dead:
                return

    def _show_own(self) -> None:
        while self._own:
            self._write(self._own.popleft())

    def _show_engine(self, to_the_end: bool) -> None:
        if self._path is None:
            return
        try:
            with self._path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < self._at:  # rotated by truncation
                    self._at = 0
                if size - self._at > _BEHIND_BYTES:
                    self._skip_to(size - _READ_BYTES)
                file.seek(self._at)
                while data := file.read(_READ_BYTES):
                    whole = data if to_the_end else data[: data.rfind(b"\n") + 1] or data
                    self._at += len(whole)
                    self._write(whole)
                    if len(data) < _READ_BYTES or self._own:
                        return
                    file.seek(self._at)
        except OSError:
            return  # not there yet, or on a share that is away: the next look may find it

    def _skip_to(self, offset: int) -> None:
        skipped = offset - self._at
        self.skipped_bytes += skipped
        self._at = offset
        self._write(f"\npd-worker: console too slow: {skipped} bytes are in {self._path} only\n".encode())

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            self._dead = True  # nobody reads it any more; the file goes on


class ConsoleLogger:
    """What structlog writes with: every level is a line on the console."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def msg(self, line: str) -> None:
        """Shows one line."""
        self._console.say(line)

    log = debug = info = warn = warning = error = exception = critical = fatal = msg


def line_of(_: Any, level: str, event: MutableMapping[str, Any]) -> str:
    """A structlog renderer: `pd-worker: time level: what name=value ...`."""
    when, what = event.pop("timestamp", ""), event.pop("event", "")
    trace = event.pop("exception", None)
    event.pop("level", None)
    pairs = "".join(
        f" {name}={value!r}" if " " in str(value) else f" {name}={value}" for name, value in event.items()
    )
    return f"pd-worker: {when} {level}: {what}{pairs}" + (f"\n{trace}" if trace else "")
