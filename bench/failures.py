"""`python -m bench.failures`: 1,024 streams at once while 5 % of all transfers fail; what clients see.

The same load and the same faults through our proxy, sglang-router 0.3.2 and SGLang's mini_lb.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import uvloop

from bench import accounting, build
from bench.failures_client import CHAT, GENERATE, Question, Verdict, ask
from bench.failures_fleet import MS_PER_TOKEN, Fleet, fleet
from bench.processes import Failed, proxy

SHARE = 0.05
GOODPUT_BAR = 0.9
_QUICK_ENOUGH = 0.8
"""Of the pace that the engines' clock sets: below it the run measures the machine."""
TOKENS = 32
STREAM_S = TOKENS * MS_PER_TOKEN / 1000
# why: a request that is hung would else end after the 300 s that SGLang's decode waits for its prefill.
LIMIT_S = 4 * STREAM_S

_SAMPLE_BYTES = 400

OURS = "ours"
NAMES = {OURS: "pd-proxy", "theirs": "sglang-router 0.3.2", "mini_lb": "mini_lb"}
FLEETS = {"3P3D": (3, 3), "1P1D": (1, 1)}
GENERATIONS = ("0.5.2", "0.5.23")
_COLUMNS = (
    *("fleet", "SGLang", "proxy", "failing", "success", "tokens/s"),
    *("goodput kept", "attempts", "left", "not right"),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One run."""

    fleet: str
    version: str
    subject: str
    share: float
    """Of the transfers that fail."""


@dataclass(slots=True)
class Result:
    """What clients saw in one run."""

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    goodput: float = 0.0
    """Tokens of right answers that ended within the window, a second."""
    attempts: float = 0.0
    """Requests that the prefills saw, for each that a client sent."""
    left_over: int = 0
    """Requests that engines still worked on when every client had its answer."""
    samples: dict[Verdict, str] = field(default_factory=dict)
    """The end of the first answer of each kind that was not right."""

    @property
    def success(self) -> float:
        """The share of right answers."""
        return self.verdicts[Verdict.RIGHT] / (self.verdicts.total() or 1)

    def broken(self) -> str:
        """What else clients got."""
        found = [f"{count} {kind}" for kind, count in self.verdicts.most_common() if kind != Verdict.RIGHT]
        return ", ".join(found) or "-"


def main() -> int:
    """Exit code: 0 ours kept its bars, 1 it did not, 2 nothing could be measured."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # so that what was started is ended
    accounting.raise_file_limit()
    results: dict[Case, Result] = {}
    try:
        if set(arguments.only) != {OURS}:
            build.install_peers()
        for case in cases(arguments):
            results[case] = measure(case, arguments.connections, arguments.seconds, arguments.seed)
            print(f"bench: {case}: {as_json(results[case])}", file=sys.stderr)
    except (build.BuildError, Failed) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(table(results, arguments.connections))
    if arguments.json:
        told = [asdict(case) | as_json(result) for case, result in results.items()]
        arguments.json.write_text(json.dumps(told, indent=2) + "\n")
    missed = [problem for case in results if case.subject == OURS for problem in problems(case, results)]
    for problem in missed:
        print(f"  MISSED: {problem}")
    return int(bool(missed))


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Each subject without faults and then with them, so that both see the same machine."""
    for name in arguments.fleets:
        for version in arguments.generations:
            for subject in arguments.only:
                yield Case(name, version, subject, 0.0)
                yield Case(name, version, subject, SHARE)


def measure(case: Case, connections: int, window_s: float, seed: int) -> Result:
    """One run on fresh processes.

    Raises:
        Failed: something did not start.
    """
    prefills, decodes = FLEETS[case.fleet]
    with fleet(prefills, decodes, case.version) as engines, proxy(case.subject, engines.backends) as subject:
        before = engines.attempts()
        if case.share:
            engines.break_transfers(case.share, seed)
        result = uvloop.run(_load(subject.port, connections, window_s, seed))
        result.attempts = (engines.attempts() - before) / result.verdicts.total()
        result.left_over = _left_over(engines)
        return result


def _left_over(engines: Fleet, within_s: float = 5.0) -> int:
    deadline = time.monotonic() + within_s
    while (left := engines.live()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


async def _load(port: int, connections: int, window_s: float, seed: int) -> Result:
    """A closed loop: each client asks again as soon as it has its answer, until the window closes."""
    result = Result()
    opens_at = time.monotonic() + STREAM_S  # when the last client has started and the first has ended
    closes_at = opens_at + window_s
    numbers = iter(range(sys.maxsize))
    right_in_window = 0

    async def client(starts_after_s: float) -> None:
        nonlocal right_in_window
        await asyncio.sleep(starts_after_s)
        while time.monotonic() < closes_at:
            number = next(numbers)
            question = Question(
                CHAT if number % 2 else GENERATE, f"Tell me story number {number} of the dragon", TOKENS
            )
            verdict, data = await ask(port, question, LIMIT_S)
            result.verdicts[verdict] += 1
            if verdict != Verdict.RIGHT:
                result.samples.setdefault(verdict, data[-_SAMPLE_BYTES:].decode(errors="replace"))
            right_in_window += verdict == Verdict.RIGHT and opens_at <= time.monotonic() < closes_at

    dice = random.Random(seed)
    async with asyncio.TaskGroup() as clients:
        for _ in range(connections):
            clients.create_task(client(dice.uniform(0, STREAM_S)))
    result.goodput = right_in_window * TOKENS / window_s
    return result


def problems(case: Case, results: dict[Case, Result]) -> Iterator[str]:
    """The bars that a run of ours has missed."""
    result, name = results[case], f"{case.fleet}, {case.version}, {case.share:.0%} failing"
    if result.success < 1:
        yield f"{name}: {result.success:.2%} success: {result.broken()}"
    if result.left_over:
        yield f"{name}: {result.left_over} requests were left on the engines"
    kept = goodput_kept(case, results)
    if kept is not None and kept < GOODPUT_BAR:
        yield f"{name}: goodput is {kept:.2f} of that without faults, not {GOODPUT_BAR}"


def goodput_kept(case: Case, results: dict[Case, Result]) -> float | None:
    """A run's goodput over that of the same without faults; None for that one itself."""
    whole = results.get(Case(case.fleet, case.version, case.subject, 0.0))
    return results[case].goodput / whole.goodput if case.share and whole and whole.goodput else None


def table(results: dict[Case, Result], connections: int) -> str:
    """All runs for a reader."""
    rows = [list(_COLUMNS)]
    for case, result in results.items():
        kept = goodput_kept(case, results)
        rows.append([case.fleet, case.version, NAMES[case.subject], f"{case.share:.0%}"])
        rows[-1] += [f"{result.success:.2%}", f"{result.goodput:,.0f}"]
        rows[-1] += ["" if kept is None else f"{kept:.2f}", f"{result.attempts:.3f}"]
        rows[-1] += [str(result.left_over), result.broken()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    title = f"{connections:,} streams at once, half /generate, half chat, {TOKENS} tokens each"
    return "\n".join([title, *(f"  {line.rstrip()}" for line in lines), *_notes(results, connections)])


def _notes(results: dict[Case, Result], connections: int) -> Iterator[str]:
    """Names runs without faults that were slower than the engines' clock: no failure made them so."""
    pace = connections * TOKENS / STREAM_S
    for case, result in results.items():
        if not case.share and result.goodput < _QUICK_ENOUGH * pace:
            name = f"{case.fleet}, {case.version}, {NAMES[case.subject]}"
            yield f"  NOTE: {name}: under the engines' {pace:,.0f} tokens/s by itself: read success only"


def as_json(result: Result) -> dict[str, object]:
    """Everything that was measured in a run."""
    return {
        "verdicts": {str(kind): count for kind, count in result.verdicts.items()},
        "success": result.success,
        "goodput_tokens_per_s": result.goodput,
        "attempts_per_request": result.attempts,
        "left_over": result.left_over,
        "samples": {str(kind): sample for kind, sample in result.samples.items()},
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.failures",
        description="1,024 streams at once while 5 % of the transfers fail at random: what clients see\n"
        "through our proxy, sglang-router 0.3.2 and mini_lb. See bench/README.md.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=list(NAMES), default=list(NAMES), help="which proxies")
    parser.add_argument("--fleets", nargs="+", choices=list(FLEETS), default=list(FLEETS))
    parser.add_argument("--generations", nargs="+", choices=GENERATIONS, default=list(GENERATIONS))
    parser.add_argument("--connections", type=int, default=1024, metavar="N", help="streams at once")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="length of a run's window")
    parser.add_argument("--seed", type=int, default=1, help="of the faults' dice and the clients' starts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to FILE")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
