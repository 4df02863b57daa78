"""A sweep's log -> its runs. Each result goes to the cell whose output it stands in, or to none.

The log may hold stderr between the lines, progress bars, colours, foreign bytes, either kind of line end, and
may stop anywhere: a result that is not whole, that names another concurrency, or that is not the only one of
its cell is no result.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from .arguments import read_arguments
from .cells import AMBIGUOUS, CUT_OFF, NO_RESULT, OK, Cell, Run, Setup
from .figures import Block, completed_figures, read_blocks
from .markers import Ended, Iteration, SweepEnd, read_marker

CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00\x08]")
"""Colours, cursor moves and titles of a terminal; zeros, of UTF-16 or of a file cut while it was written."""
LINE_END = re.compile(r"\r\n|\n|\r")
"""A progress bar ends by a lone CR. Not str.splitlines: that also splits at what foreign bytes may become."""
LABEL = re.compile(r"^\d+: ")
"""`srun --label` puts the task's number before each line."""
ERROR = re.compile(r"[\w.]*(?:Error|Exception|Interrupt)\b.*|Failed to .*")
"""The last line of a traceback, or what bench_serving says of a server that it cannot reach."""
BAR = re.compile(r"(\d+%\|[^|\n]*\|\s*\d+/\d+ \[[^]\n]*\])(?=[^\r\n])")
"""A progress bar with something behind it, which belongs on a line of its own."""
PROGRESS = re.compile(r"\s*\d+%\|[^|]*\|\s*\d+/(\d+) \[")
"""The main bar of a benchmark, the only one without a title, counts the requests that were sent."""


@dataclass
class Log:
    """What a log holds.

    Attributes:
        runs: One a cell, in the log's order; of a cell that was tried again, the last attempt.
        strays: Whole results that belong to no cell: before the first one, or another process's.
    """

    runs: list[Run] = field(default_factory=list)
    strays: int = 0


def decode(raw: bytes) -> str:
    """The text of a log in any encoding: what matters in it is ASCII (UTF-16: with zeros between)."""
    return raw.decode("utf-8-sig", errors="replace")


def read_log(text: str, setup: Setup) -> Log:
    """Reads a whole log.

    Args:
        text: As it was written.
        setup: What the file's name says.
    """
    sections = [_Section(None)]
    iteration, announced = 1, False
    for raw_line in LINE_END.split(BAR.sub(r"\1\n", text)):
        line = LABEL.sub("", CONTROL.sub("", raw_line))
        marker = read_marker(line, setup, iteration)
        if marker is None:
            sections[-1].lines.append(line)
        elif isinstance(marker, Cell):
            sections.append(_Section(marker))
        else:
            if isinstance(marker, Ended):
                sections[-1].reason = marker.reason
            elif isinstance(marker, Iteration):
                if marker.number == 1 and not announced:  # What stood before the first round was a warm-up.
                    sections = [_Section(None, section.lines) for section in sections]
                iteration, announced = marker.number, True
            elif isinstance(marker, SweepEnd):
                iteration, announced = 1, True
            sections.append(_Section(None))
    return _collect(sections)


@dataclass
class _Section:
    """The lines from one marker to the next.

    Attributes:
        cell: None: the lines belong to no cell.
        lines: Clean.
        reason: Why there is no result, as the sweep says, whatever the benchmark printed; else empty.
    """

    cell: Cell | None
    lines: list[str] = field(default_factory=list)
    reason: str = ""


def _collect(sections: list[_Section]) -> Log:
    log = Log()
    previous: Run | None = None
    for section in sections:
        if section.cell is None:
            log.strays += sum(block.whole for block in read_blocks(section.lines))
            continue
        run, strays = _run(section, section.cell)
        log.strays += strays
        if previous is not None and _tries_again(run, previous):
            attempt = max(run.cell.attempt, previous.cell.attempt + 1)
            run = replace(run, cell=replace(run.cell, attempt=attempt))
            log.runs.pop()
        log.runs.append(run)
        previous = run
    return log


def _tries_again(run: Run, previous: Run) -> bool:
    """The same cell right after it gave no result: published sweeps repeat the marker for each attempt."""
    return run.cell.key == previous.cell.key and previous.outcome != OK


def _run(section: _Section, cell: Cell) -> tuple[Run, int]:
    """The section's run, and how many whole results in it belong to something else."""
    own: list[str] = []
    foreign: list[str] = []
    lines = own
    sent: int | None = None
    for line in section.lines:
        arguments = read_arguments(line)
        if arguments:
            lines = foreign if arguments.contradict(cell) else own
            if lines is own:
                sent = arguments.prompts
        bar = PROGRESS.match(line)
        if bar and lines is own:
            sent = int(bar[1])
        lines.append(line)
    blocks = read_blocks(own)
    whole = [block for block in blocks if block.whole]
    measured = cell if cell.prompts is not None else replace(cell, prompts=sent)
    fitting = [block for block in whole if _fits(block, measured)]
    strays = len(whole) - len(fitting) + sum(block.whole for block in read_blocks(foreign))
    if len(fitting) == 1 and not section.reason:
        return Run(measured, completed_figures(fitting[0].figures), OK), strays
    outcome = AMBIGUOUS if fitting else CUT_OFF if len(blocks) > len(whole) else NO_RESULT
    errors = [line for line in own if ERROR.fullmatch(line)]
    return Run(cell, {}, section.reason or outcome, errors[-1] if errors else ""), strays


def _fits(block: Block, cell: Cell) -> bool:
    """Whether a result can be this cell's: it has a count, of no more than was sent, at this concurrency."""
    completed = block.figures.get("completed")
    if completed is None:
        return False
    if cell.prompts is not None and completed > cell.prompts:
        return False
    return block.figures.get("max_concurrency", cell.concurrency) == cell.concurrency
