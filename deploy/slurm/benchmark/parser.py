"""`benchmark_parser.py LOG`: a sweep's log as a table, as CSV, as a picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .cells import Run
from .log import decode, read_log
from .markers import setup_from_name
from .records import SUFFIX, read_records
from .table import screen, write_csv

CSV_NAME = "benchmark_results.csv"
FOUND, NOTHING_FOUND = 0, 1


@dataclass(frozen=True)
class Sweep:
    """What was found: the runs, and how many results belong to no cell."""

    runs: list[Run]
    strays: int


def read_sweep(log: Path, json: Path | None = None) -> Sweep:
    """A log's runs, with the exact figures of the JSON beside it (same name, .jsonl) where there is one.

    Args:
        log: The text log.
        json: Where the JSON is instead.

    Raises:
        OSError: a file cannot be read.
    """
    read = read_log(decode(log.read_bytes()), setup_from_name(log.name))
    beside = log.with_suffix(SUFFIX)
    if json is None and beside != log and beside.is_file():
        json = beside
    runs = read.runs
    if json is not None:
        records = read_records(json)
        runs = [records.exact(run) for run in runs]
    return Sweep(runs, read.strays)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. 0 when there is a table to show, 1 when not; 2, from argparse, for a wrong call."""
    arguments = _arguments(argv)
    try:
        sweep = read_sweep(arguments.log, arguments.json)
        return _show(sweep, arguments)
    except OSError as error:
        return _refuse(f"{error.filename}: {error.strerror}")


def _show(sweep: Sweep, arguments: argparse.Namespace) -> int:
    if sweep.strays:
        print(f"note: results that belong to no cell (warm-ups?), left out: {sweep.strays}", file=sys.stderr)
    if not sweep.runs:
        return _refuse(f"No benchmark results found in {arguments.log}: it has no RUNNING line")
    if not arguments.no_screen:
        print(screen(sweep.runs, arguments.compact))
    if arguments.csv:
        with open(arguments.csv, "w", encoding="utf-8", newline="") as file:
            write_csv(sweep.runs, arguments.compact, file)
        print(f"Results saved to: {arguments.csv}", file=sys.stderr)
    if arguments.plot:
        from .plot import PlotError, draw  # matplotlib is needed by those who draw only

        try:
            draw(sweep.runs, arguments.plot)
        except PlotError as error:
            return _refuse(str(error))
        print(f"Picture saved to: {arguments.plot}", file=sys.stderr)
    return FOUND


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmark_parser.py",
        description="Tabulates a sweep's log, SGLang's or vLLM's: one row a cell, failures shown.",
        epilog="A cell whose benchmark crashed has a row without figures.",
    )
    parser.add_argument("log", metavar="LOG", type=Path, help="benchmark_..._CONCURRENCY.log")
    parser.add_argument(
        "--csv", nargs="?", const=Path(CSV_NAME), type=Path, metavar="FILE", help=f"save as CSV ({CSV_NAME})"
    )
    parser.add_argument("--compact", action="store_true", help="fewer columns")
    parser.add_argument("--no-screen", action="store_true", help="print no table; needs --csv or --plot")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="results as JSON lines (default: beside LOG, if there)"
    )
    parser.add_argument(
        "--plot",
        nargs="?",
        const="",
        metavar="FILE",
        help="draw throughput against latency: .png or .svg (beside LOG); needs matplotlib",
    )
    arguments = parser.parse_args(argv)
    if arguments.no_screen and not arguments.csv and arguments.plot is None:
        parser.error("--no-screen leaves nothing to do: give --csv or --plot with it")
    if arguments.plot is not None:
        arguments.plot = Path(arguments.plot) if arguments.plot else arguments.log.with_suffix(".png")
    for name in ("csv", "plot"):
        if getattr(arguments, name) and getattr(arguments, name).absolute() == arguments.log.absolute():
            parser.error(f"--{name} {arguments.log}: that is the log, and would be overwritten")
    return arguments


def _refuse(reason: str) -> int:
    print(f"benchmark_parser.py: {reason}", file=sys.stderr)
    return NOTHING_FOUND
