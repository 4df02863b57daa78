"""A cell -> the benchmark's command line, as the recipe gives it to SGLang's bench_serving."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .arguments import SHARED_PREFIX
from .cells import Cell
from .settings import Settings

LIMIT_TOKENS = 2048
WARMUP_TOKENS = 32
WARMUP_DATA = ("random-ids", "--seed", "20250916")
"""Other prompts than any cell's: the prefix cache must not know a cell's prompts before it is measured."""


def command(cell: Cell, settings: Settings, output: Path) -> list[str]:
    """The words to run.

    Args:
        cell: What to measure.
        settings: The sweep's.
        output: Where the benchmark appends its result as JSON.
    """
    words = [*settings.command, "--backend", settings.backend]
    words += ["--host", settings.host, "--port", str(settings.port)]
    words += ["--dataset-name", settings.data_set, *_lengths(cell, settings.data_set)]
    words += ["--max-concurrency", str(cell.concurrency), "--num-prompts", str(cell.prompts)]
    words += ["--pd-separated", "--output-file", str(output)]
    if settings.tokenizer:
        words += ["--tokenizer", settings.tokenizer]
    return [*words, *settings.more_arguments]


def warm_up_command(cell: Cell, settings: Settings, output: Path) -> list[str]:
    """The words to run for a warm-up."""
    data_set, *seed = WARMUP_DATA
    settings = replace(settings, data_set=data_set, more_arguments=[*settings.more_arguments, *seed])
    return command(cell, settings, output)


def warm_up(cell: Cell, settings: Settings) -> Cell:
    """A few requests of the cell's input length, short answers: kernels compiled, every pair connected."""
    prompts = settings.warmup_prompts
    concurrency = min(prompts, max(settings.concurrencies))
    return replace(cell, osl=min(cell.osl, WARMUP_TOKENS), concurrency=concurrency, prompts=prompts)


def limit_s(cell: Cell, settings: Settings) -> float:
    """How long the cell may take."""
    return settings.cell_limit_s * max(1.0, (cell.isl + cell.osl) / LIMIT_TOKENS)


def _lengths(cell: Cell, data_set: str) -> list[str]:
    if data_set == SHARED_PREFIX:  # One group without a prefix: every prompt is a question of its own.
        words = ["--gsp-system-prompt-len", "0", "--gsp-question-len", str(cell.isl)]
        words += ["--gsp-output-len", str(cell.osl), "--gsp-num-groups", "1"]
        words += ["--gsp-prompts-per-group", str(cell.prompts)]
    else:
        words = ["--random-input-len", str(cell.isl), "--random-output-len", str(cell.osl)]
    return [*words, "--random-range-ratio", "1"]
