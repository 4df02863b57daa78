"""Runs as a table on the screen, and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

from .cells import OK, Run
from .columns import Column, columns

if TYPE_CHECKING:
    from .columns import Value

NOTHING = "-"
GAP = "  "
ERROR_WIDTH = 160
CSV_DIGITS = 4


def screen(runs: Sequence[Run], compact: bool) -> str:
    """The table, the recipe's last line, and in words what went wrong."""
    chosen = columns(compact)
    rows = [[column.title for column in chosen], *(_cells(run, chosen) for run in runs)]
    widths = [max(map(len, column)) for column in zip(*rows)]  # noqa: B905 (Python 3.8; the rows are equally long)
    lines = [GAP.join(_aligned(row, widths)).rstrip() for row in rows]
    rule = "=" * max(map(len, lines))
    return "\n".join(["Benchmark Results Summary:", rule, *lines, rule, "", *verdict(runs)])


def verdict(runs: Sequence[Run]) -> list[str]:
    """How many results there are, and every failure that the table shows."""
    done = [run for run in runs if run.outcome == OK]
    lines = [f"Total runs parsed: {len(done)}"]
    losing = [run for run in done if run.failed]
    if losing:
        failed, prompts = sum(run.failed or 0 for run in losing), sum(run.prompts or 0 for run in done)
        lines.append(f"FAILED REQUESTS: {failed} of {prompts}, in {len(losing)} of {len(done)} runs")
    return lines + [f"NO RESULT: {_name(run)}: {_why(run)}" for run in runs if run.outcome != OK]


def write_csv(runs: Iterable[Run], compact: bool, file: TextIO) -> None:
    """Figures with four digits, where the source has as many; what is not known is empty."""
    chosen = columns(compact)
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([column.name for column in chosen])
    for run in runs:
        writer.writerow([_bare(column.value(run)) for column in chosen])


def _cells(run: Run, chosen: Sequence[Column]) -> list[str]:
    return [_text(column.value(run)) for column in chosen]


def _text(value: Value) -> str:
    if value is None or value == "":
        return NOTHING
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _bare(value: Value) -> Value:
    if value is None:
        return ""
    return round(value, CSV_DIGITS) if isinstance(value, float) else value


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Names to the left (the model's and the status), figures to the right."""
    last = len(row) - 1
    return [
        text.ljust(widths[at]) if at in (0, last) else text.rjust(widths[at]) for at, text in enumerate(row)
    ]


def _name(run: Run) -> str:
    cell = run.cell
    return f"isl {cell.isl} osl {cell.osl} con {cell.concurrency} iter {cell.iteration}"


def _why(run: Run) -> str:
    error = run.error if len(run.error) <= ERROR_WIDTH else f"{run.error[:ERROR_WIDTH]}..."
    return f"{run.outcome} ({error})" if error else run.outcome
