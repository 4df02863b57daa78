"""The lines that stand between the results of a sweep's log: read in every published form, written in ours.

    [RUNNING] prompts  isl 1024 osl 1024 con 64 model Qwen3-32B xP=1 yD=1 job=123     (prompts may be empty)
    RUNNING: prompts  isl 1024 osl 1024 con 64
    [RUNNING] prompts 16 isl 1024 osl 1024 con 8 (timeout 1800s)                      (vLLM's)
    [RUNNING] isl=1024 osl=1024 con=1 warmups=2 prompts=16
    RUNNING: the benchserving script for iter: 2
    [STALL] isl=1024 osl=1024 con=8 timed out after 1800s
    [FAILED] isl 1024 osl 1024 con 64 iter=1 attempt=1: exit code 1                   (ours)

A marker may follow a progress bar that did not end its line, so it is looked for anywhere in a line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .cells import Cell, Setup

ANY_MARKER = re.compile(r"(?:\[(?P<kind>RUNNING|STALL|FAILED)\]|(?<![\w\[])RUNNING:) ?(?P<rest>.*)$")
ITERATION = re.compile(r"[Rr](?:unning|UNNING:?) the benchserving script for iter: ?(\d+)")
END = re.compile(r"==== Benchmark Serving Concurrency End Time")
TRACED = re.compile(r"\+ (?:echo|printf)\b")
"""A line of `set -x`: it repeats the command that prints the marker."""
FILE_NAME = re.compile(
    r"(?:benchmark_(?P<job>[^_]+)_\d+_\d+)?_xP(?P<xp>\d+)_yD(?P<yd>\d+)_(?P<model>.+?)_CONCURRENCY"
)


@dataclass(frozen=True)
class Iteration:
    """From here on, cells belong to this round of the sweep."""

    number: int


@dataclass(frozen=True)
class Ended:
    """The cell above gave no result, and why."""

    reason: str


@dataclass(frozen=True)
class SweepEnd:
    """What follows belongs to no cell."""


if TYPE_CHECKING:
    Marker = Cell | Iteration | Ended | SweepEnd


def read_marker(line: str, setup: Setup, iteration: int) -> Marker | None:
    """The marker in this line, None where there is none.

    Args:
        line: Clean text, without its line end.
        setup: What the file's name says, for markers that do not say it themselves.
        iteration: The round that was announced last.
    """
    if TRACED.search(line):
        return None
    if END.search(line):
        return SweepEnd()
    found = ITERATION.search(line)
    if found:
        return Iteration(int(found[1]))
    found = ANY_MARKER.search(line)
    if not found:
        return None
    kind, rest = found["kind"], found["rest"]
    if kind != "RUNNING" and kind is not None:
        if _number(rest, "con") is None:
            return None  # anybody's line
        return Ended(rest.partition(": ")[2] or _after_fields(rest) or "failed")
    return _cell(rest, setup, iteration)


def running_line(cell: Cell) -> str:
    """The marker that our sweep writes: the first published form, so that its users' own parsers read it."""
    setup = cell.setup
    return (
        f"[RUNNING] prompts {cell.prompts} isl {cell.isl} osl {cell.osl} con {cell.concurrency} "
        f"model {setup.model} xP={setup.xp} yD={setup.yd} job={setup.job} "
        f"iter={cell.iteration} attempt={cell.attempt}"
    )


def failed_line(cell: Cell, reason: str) -> str:
    """Says in the log why the cell above has no result."""
    return (
        f"[FAILED] isl {cell.isl} osl {cell.osl} con {cell.concurrency} "
        f"iter={cell.iteration} attempt={cell.attempt}: {reason}"
    )


def iteration_line(number: int) -> str:
    """Opens a round of the sweep."""
    return f"RUNNING: the benchserving script for iter: {number}"


def setup_from_name(file_name: str) -> Setup:
    """What `benchmark_<job>_<date>_<time>_xP<x>_yD<y>_<model>_CONCURRENCY.log` says; else empty."""
    found = FILE_NAME.search(file_name)
    if not found:
        return Setup()
    return Setup(found["model"], int(found["xp"]), int(found["yd"]), found["job"] or "")


def _cell(rest: str, setup: Setup, iteration: int) -> Cell | None:
    """None when a length or the concurrency is missing: that is no cell, whatever else it says."""
    isl, osl, concurrency = (_number(rest, name) for name in ("isl", "osl", "con"))
    if isl is None or osl is None or concurrency is None:
        return None
    model = re.search(r"\bmodel (\S+)", rest)
    job = re.search(r"\bjob=(\S+)", rest)
    xp, yd = _number(rest, "xP"), _number(rest, "yD")
    setup = replace(
        setup,
        model=model[1] if model else setup.model,
        xp=setup.xp if xp is None else xp,
        yd=setup.yd if yd is None else yd,
        job=job[1] if job else setup.job,
    )
    return Cell(
        isl,
        osl,
        concurrency,
        _number(rest, "prompts"),
        setup,
        iteration=_number(rest, "iter") or iteration,
        attempt=_number(rest, "attempt") or 1,
    )


def _number(rest: str, name: str) -> int | None:
    found = re.search(rf"\b{name}(?:=| +)(\d+)\b", rest)
    return int(found[1]) if found else None


def _after_fields(rest: str) -> str:
    return re.sub(r"^(?:\s*\b(?:isl|osl|con)[= ]\d+)+\s*", "", rest)
