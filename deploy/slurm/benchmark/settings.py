"""What a sweep runs: the recipe's environment variables, each with a flag that comes first."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .arguments import SHARED_PREFIX
from .cells import Cell, Setup, prompts_for

DATA_SETS = (SHARED_PREFIX, "random", "random-ids")
Found = TypeVar("Found")
MOST = 1_000_000
"""Above any length, concurrency or number of seconds that is no typing error."""


@dataclass(frozen=True)
class Settings:
    """One sweep. Lengths in tokens.

    Attributes:
        command: The benchmark: `python3 -m sglang.bench_serving`, or what takes the same arguments.
        more_arguments: Added to each call, last, so that they win.
        tokenizer: A name or a folder; empty: the benchmark asks the server for its model's.
        retries: More attempts at a cell whose benchmark crashed. Failed requests are a result: not retried.
        cell_limit_s: For a cell of 2048 tokens in and out, in proportion for longer ones.
    """

    setup: Setup
    shapes: Sequence[tuple[int, int]]
    concurrencies: Sequence[int]
    iterations: int
    command: Sequence[str]
    more_arguments: Sequence[str]
    host: str
    port: int
    backend: str
    data_set: str
    tokenizer: str
    folder: Path
    warmup_prompts: int
    retries: int
    cooldown_s: float
    pause_s: float
    cell_limit_s: float
    fail_fast: bool
    dry_run: bool

    def cells(self) -> list[Cell]:
        """Every cell in the order of the recipe: rounds, then lengths, then concurrencies."""
        return [
            Cell(isl, osl, concurrency, prompts_for(concurrency), self.setup, iteration)
            for iteration in range(1, self.iterations + 1)
            for isl, osl in self.shapes
            for concurrency in self.concurrencies
        ]


def read_settings(argv: Sequence[str] | None, environment: Mapping[str, str]) -> Settings:
    """Flags first, then the environment, then defaults. Ends the process with a message for a wrong one."""
    parser = _parser(environment)
    said = parser.parse_args(argv)
    return Settings(
        setup=Setup(said.model_name, said.xp, said.yd, said.job),
        shapes=said.combinations,
        concurrencies=said.concurrency,
        iterations=said.iterations,
        command=said.command,
        more_arguments=[*said.arguments, *said.more],
        host=said.host,
        port=said.port,
        backend=said.backend,
        data_set=said.dataset,
        tokenizer=said.tokenizer or environment.get("MODEL_PATH", ""),
        folder=said.log_path / said.job,
        warmup_prompts=said.warmup_prompts,
        retries=said.retries,
        cooldown_s=said.cooldown_s,
        pause_s=said.pause_s,
        cell_limit_s=said.cell_limit_s,
        fail_fast=said.fail_fast,
        dry_run=said.dry_run,
    )


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmark_xPyD.sh",
        description="Measures a service over lengths and concurrencies, by SGLang's bench_serving.",
        epilog="What follows -- is added to each call of the benchmark. Exit code: 0 all requests succeeded, "
        "1 something failed (the table says what), 2 a wrong setting.",
    )
    for flag, variable, default, kind, text in _flags():
        parser.add_argument(
            flag,
            type=kind,
            default=environment.get(variable) or default,
            metavar="...",
            help=f"{text} (${variable}, else {default or 'empty'})",
        )
    parser.add_argument(
        "--fail-fast",
        action="store_true",
        default=environment.get("BENCHMARK_FAIL_FAST", "0") not in ("", "0"),
        help="end at the first cell without a result ($BENCHMARK_FAIL_FAST)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print each command, run nothing")
    parser.add_argument("more", nargs="*", metavar="-- ARGUMENT", help="added to each call")
    return parser


def _flags() -> Iterable[tuple[str, str, str, Callable[[str], Any], str]]:
    """Flag, environment variable, default, what checks it, help."""
    yield "--model-name", "MODEL_NAME", "", _name, "the model's name, for the log"
    yield "--xp", "xP", "1", _count, "prefill servers, for the log"
    yield "--yd", "yD", "1", _count, "decode servers, for the log"
    yield "--combinations", "BENCHMARK_COMBINATIONS", "1024/1024 8192/1024", _shapes, "ISL/OSL pairs"
    levels = "8 16 32 64 128 256 512"
    yield "--concurrency", "BENCHMARK_CONCURRENCY_LEVELS", levels, _counts, "requests at once, each a cell"
    yield "--iterations", "BENCHMARK_ITR", "1", _count, "rounds over all cells"
    yield "--host", "BENCHMARK_HOST", "127.0.0.1", str, "where the proxy is"
    yield "--port", "BENCHMARK_PORT", "30000", _count, "its port"
    yield "--backend", "BENCHMARK_BACKEND", "sglang", str, "bench_serving's backend"
    yield "--dataset", "BENCHMARK_DATASET", SHARED_PREFIX, _data_set, " or ".join(DATA_SETS)
    yield "--tokenizer", "BENCHMARK_TOKENIZER", "", str, "a name or folder, or else $MODEL_PATH"
    benchmark = "python3 -m sglang.bench_serving"
    yield "--command", "BENCHMARK_COMMAND", benchmark, shlex.split, "the benchmark itself"
    yield "--arguments", "BENCHMARK_ARGUMENTS", "", shlex.split, "added to each call, as what follows --"
    yield "--log-path", "LOG_PATH", ".", Path, "the logs go to <log path>/<job>/"
    yield "--job", "SLURM_JOB_ID", "0", _name, "the job's number"
    yield "--warmup-prompts", "BENCHMARK_WARMUP_PROMPTS", "16", _number, "requests before a pair; 0: none"
    yield "--retries", "BENCHMARK_POINT_RETRIES", "2", _number, "more attempts at a crashed cell"
    yield "--cooldown-s", "BENCHMARK_RETRY_COOLDOWN_SECONDS", "15", _number, "seconds before a retry"
    yield "--pause-s", "BENCHMARK_BETWEEN_RUN_SECONDS", "2", _number, "seconds between cells"
    yield "--cell-limit-s", "BENCHMARK_CELL_LIMIT_SECONDS", "1800", _count, "for a cell of up to 2048 tokens"


def _name(text: str) -> str:
    """A word for a file's name; a slash (of a model's full name) would make a folder of it."""
    if not text or re.search(r"\s", text):
        raise argparse.ArgumentTypeError("must be one word: export MODEL_NAME=<name>, or give the flag")
    return text.replace("/", "--")


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) > MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to {MOST}")
    return int(text)


def _count(text: str) -> int:
    number = _number(text)
    if number == 0:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _counts(text: str) -> list[int]:
    counts = [_count(word) for word in text.split()]
    return _some(counts, text)


def _shapes(text: str) -> list[tuple[int, int]]:
    shapes = []
    for word in text.split():
        isl, slash, osl = word.partition("/")
        if not slash:
            raise argparse.ArgumentTypeError(f"{word!r} is not ISL/OSL, as in 1024/1024")
        shapes.append((_count(isl), _count(osl)))
    return _some(shapes, text)


def _some(found: list[Found], text: str) -> list[Found]:
    if not found or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r} must name at least one, and none twice")
    return found


def _data_set(text: str) -> str:
    if text not in DATA_SETS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(DATA_SETS)}")
    return text
