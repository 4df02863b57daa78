"""The sweep: every cell measured, tried again when its benchmark crashes, and written down in any case."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from .cells import OK, Cell, Run
from .command import command, limit_s, warm_up, warm_up_command
from .figures import completed_figures
from .files import Files
from .markers import failed_line, iteration_line, running_line
from .process import Failed, run
from .records import numbers, read_result, record
from .settings import Settings

STOPPED = "stopped"
NO_JSON = "ended well, but wrote no result"


class Stopped(BaseException):
    """A signal asks for the end: raised by its handler, wherever the sweep is."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@dataclass(frozen=True)
class Tools:
    """What a sweep takes from outside. Seconds."""

    say: Callable[[str], None]
    wait: Callable[[float], None]
    clock: Callable[[], float]


class Sweep:
    """One sweep over its cells. Owns the runs so far, so that a sweep that is stopped still has a table."""

    def __init__(self, settings: Settings, files: Files, tools: Tools) -> None:
        self.runs: list[Run] = []
        self._settings = settings
        self._files = files
        self._tools = tools

    def measure_all(self) -> None:
        """Measures every cell; after a cell without a result goes on, unless told to fail fast.

        Raises:
            OSError: a log cannot be written.
            Stopped: by a signal.
        """
        cells = self._settings.cells()
        warm: set[tuple[int, int]] = set()
        announced = 0
        for at, cell in enumerate(cells, 1):
            if (cell.isl, cell.osl) not in warm:
                warm.add((cell.isl, cell.osl))
                self._warm_up(cell)
            if cell.iteration != announced:
                announced = cell.iteration
                self._files.note(iteration_line(announced))
            self._tools.say(f"[{at}/{len(cells)}] {_name(cell)} ...")
            done = self._measure(cell)
            self.runs.append(done)
            self._tools.say(f"[{at}/{len(cells)}] {_name(cell)} {_summary(done)}")
            if done.outcome != OK and self._settings.fail_fast:
                self._tools.say("stopping: --fail-fast")
                return
            if at < len(cells):
                self._tools.wait(self._settings.pause_s)

    def _warm_up(self, cell: Cell) -> None:
        """Not a result: when it fails, the cells say so."""
        if not self._settings.warmup_prompts:
            return
        asked = warm_up(cell, self._settings)
        self._tools.say(f"warm-up: {_name(asked)} prompts {asked.prompts}")
        with tempfile.TemporaryDirectory() as folder:
            words = warm_up_command(asked, self._settings, Path(folder) / "result.jsonl")
            try:
                run(words, self._files.warm_up, limit_s(asked, self._settings))
            except Failed as failed:
                self._tools.say(f"warm-up failed: {failed}; see {self._files.warm_up}")

    def _measure(self, cell: Cell) -> Run:
        attempts = self._settings.retries + 1
        done = self._attempt(cell)
        for attempt in range(2, attempts + 1):
            if done.outcome == OK:
                break
            self._tools.say(f"  attempt {attempt - 1} of {attempts}: {done.outcome}; trying again")
            self._tools.wait(self._settings.cooldown_s)
            done = self._attempt(replace(cell, attempt=attempt))
        return done

    def _attempt(self, cell: Cell) -> Run:
        """One attempt, in the log and in the JSON when it ends, also by a signal."""
        self._files.note(running_line(cell))
        began = self._tools.clock()
        result, outcome = None, STOPPED
        try:
            with tempfile.TemporaryDirectory() as folder:
                output = Path(folder) / "result.jsonl"
                run(command(cell, self._settings, output), self._files.log, limit_s(cell, self._settings))
                result = read_result(output)
            outcome = OK if result else NO_JSON
        except Failed as failed:
            outcome = str(failed)
        finally:
            if outcome != OK:
                self._files.note(failed_line(cell, outcome))
            line = record(cell, outcome, self._tools.clock() - began, result)
            with open(self._files.json, "a", encoding="utf-8") as file:
                file.write(line)
        return Run(cell, completed_figures(numbers(result or {})), outcome)


def _name(cell: Cell) -> str:
    return f"isl {cell.isl} osl {cell.osl} con {cell.concurrency}"


def _summary(done: Run) -> str:
    """What a person who waits wants to see of a cell."""
    if done.outcome != OK:
        return f"NO RESULT: {done.outcome}"
    figures = done.figures
    shown = [f"{int(figures['completed'])} ok, {done.failed} {'FAILED' if done.failed else 'failed'}"]
    for key, text in (
        ("output_throughput", "{:.0f} tok/s out"),
        ("mean_ttft_ms", "TTFT {:.0f} ms"),
        ("mean_itl_ms", "ITL {:.1f} ms"),
        ("duration", "{:.0f} s"),
    ):
        if key in figures:
            shown.append(text.format(figures[key]))
    return ", ".join(shown)
