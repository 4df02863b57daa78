"""Results as JSON, one object a line: exact figures, where the text has two digits.

Two kinds stand in such files. Our sweep's say which cell they belong to, and are taken by that. What
bench_serving's `--output-file` appends says it not, so such a result only replaces the text's figures of the
one run that it equals.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cells import OK, Cell, Run
from .figures import completed_figures

SUFFIX = ".jsonl"
IDENTITY = ("max_concurrency", "completed", "total_input_tokens", "total_output_tokens")

if TYPE_CHECKING:
    Attempt = tuple[int, int, int, int, int]
    """A cell's key, and which attempt at it."""


class Records:
    """The results of one file."""

    def __init__(self, objects: list[dict[str, Any]]) -> None:
        self._by_attempt: dict[Attempt, Mapping[str, Any]] = {}
        self._plain: list[Mapping[str, Any]] = []
        for each in objects:
            if isinstance(each.get("cell"), dict):
                self._keep(each["cell"], each.get("result"))
            else:
                self._plain.append(each)

    def exact(self, run: Run) -> Run:
        """The run with this file's figures, or as it is when the file has none that are surely its own."""
        result = self._by_attempt.get((*run.cell.key, run.cell.attempt))
        if result is None:
            equals = [each for each in self._plain if _equals(each, run.figures)]
            result = equals[0] if len(equals) == 1 else None
        if result is None:
            return run
        figures = numbers(result)
        if "failed" in run.figures:
            figures.setdefault("failed", run.figures["failed"])
        return replace(run, figures=completed_figures(figures), outcome=OK, error="")

    def _keep(self, cell: dict[str, Any], result: Any) -> None:
        said: list[Any] = [cell.get(name) for name in ("iteration", "isl", "osl", "concurrency", "attempt")]
        if isinstance(result, dict) and _is_number(result.get("completed")) and all(map(_is_number, said)):
            iteration, isl, osl, concurrency, attempt = said
            self._by_attempt[(iteration, isl, osl, concurrency, attempt)] = result


def read_records(path: Path) -> Records:
    """The file's results. A line that is no JSON object (the last one of a killed sweep) is passed over.

    Raises:
        OSError: the file cannot be read.
    """
    objects = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        each = _object(line)
        if each is not None:
            objects.append(each)
    return Records(objects)


def record(cell: Cell, outcome: str, elapsed_s: float, result: Mapping[str, Any] | None) -> str:
    """One attempt of our sweep as a line of JSON."""
    setup = cell.setup
    said = {
        "cell": {
            "iteration": cell.iteration,
            "isl": cell.isl,
            "osl": cell.osl,
            "concurrency": cell.concurrency,
            "prompts": cell.prompts,
            "attempt": cell.attempt,
        },
        "setup": {"model": setup.model, "xP": setup.xp, "yD": setup.yd, "job": setup.job},
        "outcome": outcome,
        "elapsed_s": round(elapsed_s, 3),
        "result": None if result is None else dict(result),
    }
    return json.dumps(said) + "\n"


def read_result(path: Path) -> dict[str, Any] | None:
    """The last object that a benchmark appended to its `--output-file`; None when it wrote none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return None
    objects = [each for each in map(_object, lines) if each is not None and _is_number(each.get("completed"))]
    return objects[-1] if objects else None


def numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a result, without what is no number (names, lists, NaN)."""
    return {name: float(value) for name, value in result.items() if _is_number(value)}


def _object(line: str) -> dict[str, Any] | None:
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None


def _equals(result: Mapping[str, Any], figures: Mapping[str, float]) -> bool:
    """Whether a result without a cell is the one that the text shows, which has two digits."""
    if any(name not in figures or result.get(name) != figures[name] for name in IDENTITY):
        return False
    durations = (result.get("duration", -1), figures.get("duration", -2))
    return all(map(_is_number, durations)) and f"{durations[0]:.2f}" == f"{durations[1]:.2f}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
