"""The result block that SGLang's bench_serving and vLLM's print: figures by the names of SGLang's JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

HEADER = "Serving Benchmark Result"
FOOTER = re.compile(r"={40,}")
LINE = re.compile(r"\s*(?P<label>[A-Z][^:]*?):\s+(?P<value>\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*$")
LATENCY = re.compile(r"(mean|median|std|max|p\d+) (e2e latency|e2el|ttft|tpot|itl) \(ms\)")
NAMES = {
    "successful requests": "completed",
    "failed requests": "failed",
    "benchmark duration (s)": "duration",
    "total input tokens": "total_input_tokens",
    "total generated tokens": "total_output_tokens",
    "request throughput (req/s)": "request_throughput",
    "input token throughput (tok/s)": "input_throughput",
    "output token throughput (tok/s)": "output_throughput",
    "total token throughput (tok/s)": "total_throughput",
    "max request concurrency": "max_concurrency",
    "maximum request concurrency": "max_concurrency",
    "concurrency": "concurrency",
}
COUNTED = ("completed", "failed", "duration", "max_concurrency")
"""What still means something when no request succeeded: a mean of nothing is no figure."""


@dataclass
class Block:
    """One result as it stands in the log. `whole`: its last line was seen, so that no figure is cut short."""

    figures: dict[str, float] = field(default_factory=dict)
    whole: bool = False


def read_blocks(lines: Iterable[str]) -> list[Block]:
    """Every result block in these lines, whole or not. A line that is not exactly a figure is passed over."""
    blocks: list[Block] = []
    block: Block | None = None
    for line in lines:
        if HEADER in line:
            block = Block()
            blocks.append(block)
        elif block is None:
            continue
        elif FOOTER.search(line):
            block.whole = True
            block = None
        else:
            figure = _figure(line)
            if figure:
                block.figures.setdefault(*figure)
    return blocks


def completed_figures(figures: Mapping[str, float]) -> dict[str, float]:
    """Adds what one form prints and the other does not; drops the averages of nothing.

    vLLM prints no input throughput, SGLang's JSON no total: both follow from what is there.
    """
    if not figures.get("completed"):
        return {name: value for name, value in figures.items() if name in COUNTED}
    whole = dict(figures)
    if "input_throughput" not in whole and whole.get("duration") and "total_input_tokens" in whole:
        whole["input_throughput"] = whole["total_input_tokens"] / whole["duration"]
    if "total_throughput" not in whole and "input_throughput" in whole and "output_throughput" in whole:
        whole["total_throughput"] = whole["input_throughput"] + whole["output_throughput"]
    return whole


def _figure(line: str) -> tuple[str, float] | None:
    found = LINE.match(line)
    if not found:
        return None
    label = found["label"].lower()
    name = NAMES.get(label)
    if name is None:
        latency = LATENCY.fullmatch(label)
        if not latency:
            return None
        what = "e2e_latency" if latency[2].startswith("e2e") else latency[2]
        name = f"{latency[1]}_{what}_ms"
    return name, float(found["value"].replace(",", ""))
