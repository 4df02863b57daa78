"""How a life of the engine ended: in words, as an exit code, and why."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from workers.autopsy import Autopsy, examine

_TAIL_BYTES = 256 * 1024
"""why: the first error may stand before the traces of eight ranks."""
CUT = 8
"""Exit code: drained, but requests were cut at the limit."""
TIMED_OUT = 124
"""Exit code: never ready within the limit, or silent for too long (as `timeout` says it)."""


@dataclass(frozen=True, slots=True)
class End:
    """How a life ended."""

    exit_code: int
    """Should it be the last."""
    asked: bool = False
    """Somebody wanted it: no restart."""
    why: str = ""
    hopeless: bool = False


def ending(returncode: int) -> str:
    """How a process ended, in words."""
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


def exit_code(returncode: int) -> int:
    """What a shell would say: the engine's own code, 128 + a signal; 1 where it ended with 0 unasked."""
    return 128 - returncode if returncode < 0 else returncode or 1


def autopsy(path: Path, begins_at: int, returncode: int) -> Autopsy | None:
    """Why a life ended, from the end of its part of the log; None: not known."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(begins_at if begins_at <= size else 0, size - _TAIL_BYTES))
            return examine(file.read(_TAIL_BYTES).decode(errors="replace"), returncode)
    except OSError:
        return None
