"""The table's columns: the recipe's, in its order, then what it did not show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .cells import Run

if TYPE_CHECKING:
    Value = str | int | float | None


@dataclass(frozen=True)
class Column:
    """`name` heads the CSV, `title` the screen; `compact`: also in the narrow table."""

    name: str
    title: str
    value: Callable[[Run], Value]
    compact: bool = False


def _figure(key: str) -> Callable[[Run], Value]:
    return lambda run: run.figures.get(key)


def _count(key: str) -> Callable[[Run], Value]:
    def value(run: Run) -> int | None:
        return int(run.figures[key]) if key in run.figures else None

    return value


COLUMNS: tuple[Column, ...] = (
    Column("Model", "Model", lambda run: run.cell.setup.model, compact=True),
    Column("xP_yD", "xP_yD", lambda run: run.cell.setup.xp_yd, compact=True),
    Column("ISL", "ISL", lambda run: run.cell.isl, compact=True),
    Column("OSL", "OSL", lambda run: run.cell.osl, compact=True),
    Column("Concurrency", "Concurrency", lambda run: run.cell.concurrency, compact=True),
    Column("Prompts", "Prompts", lambda run: run.prompts, compact=True),
    Column("Request_Throughput_req_s", "Req/s", _figure("request_throughput")),
    Column("Input_Token_Throughput_tok_s", "In tok/s", _figure("input_throughput")),
    Column("Output_Token_Throughput_tok_s", "Out tok/s", _figure("output_throughput"), compact=True),
    Column("Total_Token_Throughput_tok_s", "Total tok/s", _figure("total_throughput"), compact=True),
    Column("Mean_E2E_ms", "E2E ms", _figure("mean_e2e_latency_ms")),
    Column("Mean_TTFT_ms", "TTFT ms", _figure("mean_ttft_ms"), compact=True),
    Column("Mean_ITL_ms", "ITL ms", _figure("mean_itl_ms"), compact=True),
    Column("Successful", "Successful", _count("completed"), compact=True),
    Column("Failed", "Failed", lambda run: run.failed, compact=True),
    Column("Median_E2E_ms", "E2E p50", _figure("median_e2e_latency_ms")),
    Column("Median_TTFT_ms", "TTFT p50", _figure("median_ttft_ms")),
    Column("Median_ITL_ms", "ITL p50", _figure("median_itl_ms")),
    Column("P99_E2E_ms", "E2E p99", _figure("p99_e2e_latency_ms")),
    Column("P99_TTFT_ms", "TTFT p99", _figure("p99_ttft_ms")),
    Column("P99_ITL_ms", "ITL p99", _figure("p99_itl_ms")),
    Column("Iteration", "Iter", lambda run: run.cell.iteration),
    Column("Attempts", "Attempts", lambda run: run.cell.attempt),
    Column("Status", "Status", lambda run: run.status, compact=True),
)


def columns(compact: bool) -> tuple[Column, ...]:
    """All of them, or those of the narrow table."""
    return tuple(column for column in COLUMNS if column.compact or not compact)
