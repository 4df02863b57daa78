"""`benchmark_xPyD.sh`: runs a sweep to its end, prints its table; the exit code tells the truth."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from .cells import OK
from .command import command
from .files import Files
from .parser import read_sweep
from .settings import Settings, read_settings
from .sweep import Stopped, Sweep, Tools
from .table import screen, write_csv

ALL_WELL, SOMETHING_FAILED = 0, 1
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. 0: every request of every cell succeeded; 1: not; 128 + n: stopped by signal n."""
    settings = read_settings(argv, os.environ)
    if settings.dry_run:
        for cell in settings.cells():
            print(shlex.join(command(cell, settings, Path("RESULT.jsonl"))))
        return ALL_WELL
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup stays nohup
            signal.signal(number, _stop)
    try:
        files = Files.named(settings.folder, settings.setup, time.strftime("%Y%m%d_%H%M%S"))
        return _sweep(settings, files)
    except OSError as error:
        print(f"benchmark_xPyD.sh: cannot write {error.filename}: {error.strerror}", file=sys.stderr)
        return SOMETHING_FAILED


def _sweep(settings: Settings, files: Files) -> int:
    files.note(f"==== Benchmark Serving Concurrency Sweep Test {files.log.with_suffix('')} =====")
    files.note(f"UTC Time: {_now()}")
    files.note(f"Benchmark: {shlex.join(settings.command)}")
    _say(f"log: {files.log}")
    sweep = Sweep(settings, files, Tools(_say, time.sleep, time.perf_counter))
    stopped = 0
    try:
        sweep.measure_all()
    except Stopped as signalled:
        stopped = signalled.number
    files.note(f"==== Benchmark Serving Concurrency End Time {files.log.with_suffix('')} =====")
    files.note(f"UTC Time: {_now()}")
    written = read_sweep(files.log).runs  # What the parser will show to whoever reads the log later.
    if written:
        with open(files.csv, "w", encoding="utf-8", newline="") as file:
            write_csv(written, compact=False, file=file)
        _say("\n" + screen(written, compact=True))
        _say(f"\nall columns: {files.csv}\nall attempts: {files.json}")
    if stopped:
        share = f"{len(sweep.runs)} of {len(settings.cells())} cells"
        _say(f"stopped by {signal.Signals(stopped).name} after {share}")
        return 128 + stopped
    well = len(sweep.runs) == len(settings.cells()) and all(
        each.outcome == OK and each.failed == 0 for each in sweep.runs
    )
    return ALL_WELL if well else SOMETHING_FAILED


def _stop(number: int, frame: FrameType | None) -> None:
    for each in SIGNALS:  # Once is enough: what is written at the end must not be cut short.
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)


def _say(line: str) -> None:
    print(line, flush=True)


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
