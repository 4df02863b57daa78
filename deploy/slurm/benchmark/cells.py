"""The nouns of a sweep: a cell is what was asked for, a run is what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

OK = "ok"
NO_RESULT = "no result"
CUT_OFF = "cut off"
AMBIGUOUS = "several results"

if TYPE_CHECKING:
    Key = tuple[int, int, int, int]
    """Iteration, input length, output length, concurrency: what tells one cell of a sweep from another."""

LEAST_PROMPTS = 16


def prompts_for(concurrency: int) -> int:
    """How many requests the recipe sends at this concurrency: two rounds, and never fewer than 16."""
    return max(LEAST_PROMPTS, 2 * concurrency)


@dataclass(frozen=True)
class Setup:
    """What is the same for a whole sweep. What is not known is empty or None."""

    model: str = ""
    xp: int | None = None
    yd: int | None = None
    job: str = ""

    @property
    def xp_yd(self) -> str:
        """As the recipe writes it: `1p1d`."""
        return "" if self.xp is None or self.yd is None else f"{self.xp}p{self.yd}d"


@dataclass(frozen=True)
class Cell:
    """One measurement that was asked for. Lengths in tokens; `prompts` None: the log does not say."""

    isl: int
    osl: int
    concurrency: int
    prompts: int | None
    setup: Setup
    iteration: int = 1
    attempt: int = 1

    @property
    def key(self) -> Key:
        """The same for every attempt at this cell, and for no other cell of the sweep."""
        return (self.iteration, self.isl, self.osl, self.concurrency)


@dataclass(frozen=True)
class Run:
    """A cell with its result.

    Attributes:
        cell: What was asked for.
        figures: By bench_serving's own JSON names (`mean_ttft_ms`), plus `failed`. Empty without a result.
        outcome: OK, or in a few words why there are no figures.
        error: The last error that the benchmark wrote, of a run without figures.
    """

    cell: Cell
    figures: Mapping[str, float]
    outcome: str
    error: str = ""

    @property
    def prompts(self) -> int | None:
        """Requests sent: as the log says, else by the recipe's rule, unless more than that succeeded."""
        if self.cell.prompts is not None:
            return self.cell.prompts
        if "failed" in self.figures:
            return int(self.figures["completed"] + self.figures["failed"])
        guess = prompts_for(self.cell.concurrency)
        return guess if self.figures.get("completed", 0) <= guess else None

    @property
    def failed(self) -> int | None:
        """Requests that were sent and did not succeed: SGLang prints no such line. None: not known."""
        if "failed" in self.figures:
            return int(self.figures["failed"])
        if self.prompts is None or "completed" not in self.figures:
            return None
        return self.prompts - int(self.figures["completed"])

    @property
    def status(self) -> str:
        """The outcome for people: `ok` only when every request succeeded."""
        if self.outcome == OK and self.failed is None:
            return "prompts unknown"
        return f"{self.failed} FAILED" if self.outcome == OK and self.failed else self.outcome
