"""One run of the benchmark: its output goes straight to a file, its exit code is its own (no pipe to tee)."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

END_S = 5.0
"""For a benchmark to end after SIGTERM, before SIGKILL."""


class Failed(Exception):
    """The benchmark did not end well; the message says how, for the log and the table."""


def run(words: Sequence[str], log: Path, limit_s: float) -> None:
    """Runs the benchmark to its end, its output appended to `log`.

    Raises:
        Failed: it cannot be started, ended with another code than 0, or took longer than `limit_s`.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}  # stdout and stderr in the order of events
    with open(log, "ab") as file:
        try:
            child = subprocess.Popen(
                list(words),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise Failed(f"cannot start {words[0]}: {error.strerror}") from error
        try:
            code = child.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise Failed(f"timed out after {limit_s:g}s") from None
        finally:
            _end(child)
    if code < 0:
        raise Failed(f"killed by {signal.Signals(-code).name}")
    if code > 0:
        raise Failed(f"exit code {code}")


def _end(child: subprocess.Popen[bytes]) -> None:
    """Leaves no process of a benchmark behind that did not end by itself."""
    if child.poll() is not None:
        return
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, kind)
        except (ProcessLookupError, PermissionError):
            return
        try:
            child.wait(END_S)
        except subprocess.TimeoutExpired:
            continue
