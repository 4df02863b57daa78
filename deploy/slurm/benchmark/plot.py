"""Throughput against latency, one line a shape, one point a concurrency. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cells import Run

FORMATS = (".png", ".svg", ".pdf")
LATENCIES = (
    ("mean_ttft_ms", "mean time to first token, ms"),
    ("mean_itl_ms", "mean time between tokens, ms"),
    ("mean_e2e_latency_ms", "mean end to end, ms"),
)
THROUGHPUT = ("output_throughput", "output tokens a second")
INCHES = (16, 5)
DOTS_PER_INCH = 130

if TYPE_CHECKING:
    Shape = tuple[int, int, int]
    """Input and output length, and the round of the sweep."""


class PlotError(Exception):
    """Nothing can be drawn; the message says why and what to do."""


def draw(runs: Sequence[Run], file: Path) -> None:
    """Draws all runs with a result. A ringed point lost requests: its figures are of those that succeeded.

    Raises:
        PlotError: matplotlib is missing, the format unknown, or there is nothing to draw.
        OSError: the file cannot be written.
    """
    if file.suffix not in FORMATS:
        raise PlotError(f"--plot {file}: the name must end in one of {', '.join(FORMATS)}")
    shapes = _by_shape(runs)
    if not shapes:
        raise PlotError("nothing to draw: no run has a result")
    try:
        from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]
        from matplotlib.ticker import LogFormatter  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise PlotError(f"--plot needs matplotlib ({error}): pip install matplotlib, or use --csv") from error
    figure = Figure(figsize=INCHES, layout="constrained")
    panels = figure.subplots(1, len(LATENCIES))
    for panel, (latency, title) in zip(panels, LATENCIES):  # noqa: B905 (Python 3.8; made with as many panels)
        _draw_panel(panel, shapes, latency, title)
        for axis in ("set_major_formatter", "set_minor_formatter"):
            getattr(panel.xaxis, axis)(LogFormatter(minor_thresholds=(2, 0.5)))
    panels[0].set_ylabel(THROUGHPUT[1])
    panels[0].legend(title="ISL/OSL")
    figure.suptitle(_title(runs))
    figure.savefig(file, dpi=DOTS_PER_INCH)


def _draw_panel(panel: Any, shapes: dict[Shape, list[Run]], latency: str, title: str) -> None:
    for (isl, osl, iteration), runs in shapes.items():
        points = [
            (run.figures[latency], run.figures[THROUGHPUT[0]], run)
            for run in runs
            if latency in run.figures and THROUGHPUT[0] in run.figures
        ]
        panel.plot(
            [point[0] for point in points],
            [point[1] for point in points],
            marker="o",
            label=f"{isl}/{osl}" + (f" round {iteration}" if iteration > 1 else ""),
        )
        for x, y, run in points:
            panel.annotate(str(run.cell.concurrency), (x, y), xytext=(4, 4), textcoords="offset points")
            if run.failed:
                panel.plot([x], [y], marker="o", markersize=13, fillstyle="none", color="red", zorder=1)
    panel.set_xlabel(title)
    panel.set_xscale("log")
    panel.set_ylim(bottom=0)
    panel.grid(visible=True, alpha=0.3)


def _by_shape(runs: Sequence[Run]) -> dict[Shape, list[Run]]:
    """By lengths and round, each in order of concurrency, so that a line runs from idle to loaded."""
    shapes: dict[Shape, list[Run]] = {}
    for run in runs:
        if run.figures.get("completed"):
            shapes.setdefault((run.cell.isl, run.cell.osl, run.cell.iteration), []).append(run)
    for shape in shapes.values():
        shape.sort(key=lambda run: run.cell.concurrency)
    return shapes


def _title(runs: Sequence[Run]) -> str:
    setup = runs[0].cell.setup
    named = " ".join(part for part in (setup.model, setup.xp_yd, setup.job and f"job {setup.job}") if part)
    missing = sum(not run.figures.get("completed") for run in runs)
    parts = [named or "sweep", "points are labelled with their concurrency"]
    if any(run.failed for run in runs):
        parts.append("ringed: requests failed")
    if missing:
        parts.append(f"not drawn, without a success: {missing}")
    return "; ".join(parts)
