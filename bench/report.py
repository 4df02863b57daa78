"""Samples as medians, ratios, verdicts and a table."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from bench.runner import Result, Sample
from bench.scenarios import Bar

OURS, THEIRS = "ours", "theirs"

_LABELS = {
    "cpu_us_per_request": "CPU us/request",
    "cpu_us_per_event": "CPU us/event",
    "requests_per_s": "requests/s",
    "events_per_s": "events/s",
    "kb_per_stream": "KB/open stream",
    "rss_mb": "memory MB",
}
_LATENCY_LABELS = {
    "latency": "request takes",
    "ttft": "first event after",
    "gap": "between events",
    "transit": "event underway",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar held against what was measured; `value` is None where nothing could be."""

    bar: Bar
    value: float | None

    @property
    def is_kept(self) -> bool:
        """Whether the figure is within the limit; what was not measured was not kept."""
        return self.value is not None and self.value <= self.bar.limit


def medians(samples: list[Sample]) -> Sample:
    """The median of each metric over the rounds that have it."""
    names = dict.fromkeys(name for sample in samples for name in sample)
    return {name: statistics.median(s[name] for s in samples if name in s) for name in names}


def ratio(result: Result, metric: str) -> float | None:
    """Ours over theirs: the median of the rounds' own ratios, since both of a round saw the same machine."""
    pairs = zip(result.rounds.get(OURS, []), result.rounds.get(THEIRS, []), strict=False)
    ratios = [
        ours[metric] / theirs[metric] for ours, theirs in pairs if metric in ours and theirs.get(metric)
    ]
    return statistics.median(ratios) if ratios else None


def verdicts(result: Result) -> list[Verdict]:
    """Each bar of the scenario with its figure."""
    ours = medians(result.rounds.get(OURS, []))
    return [
        Verdict(bar, ratio(result, bar.metric) if bar.is_ratio else ours.get(bar.metric))
        for bar in result.scenario.bars
    ]


def table(result: Result) -> str:
    """The scenario's figures for a reader."""
    columns = {name: medians(samples) for name, samples in result.rounds.items()}
    metrics = dict.fromkeys(metric for column in columns.values() for metric in column)
    rows = [["median of rounds", *columns, "ours/theirs", "bar"]]
    judged = {verdict.bar.metric: verdict for verdict in verdicts(result)}
    for metric in sorted(metrics, key=_rank):
        rows.append([_label(metric), *(_number(column.get(metric)) for column in columns.values())])
        shows_ratio = not metric.startswith("added_")
        rows[-1].append(_number(ratio(result, metric)) if shows_ratio else "")
        rows[-1].append(_judgement(judged.get(metric)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [f"{result.scenario.name}: {result.scenario.title} ({result.scenario.rounds} rounds)"]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  " + "  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return "\n".join([*lines, *(f"  FAILED: {problem}" for problem in result.problems)])


def as_json(result: Result) -> dict[str, Any]:
    """Everything that was measured, round by round, and what follows from it."""
    metrics = dict.fromkeys(metric for sample in result.rounds.get(OURS, []) for metric in sample)
    return {
        "title": result.scenario.title,
        "rounds": result.rounds,
        "median": {name: medians(samples) for name, samples in result.rounds.items()},
        "ratio": {
            m: r for m in metrics if not m.startswith("added_") and (r := ratio(result, m)) is not None
        },
        "bars": [
            {"metric": v.bar.metric, "is_ratio": v.bar.is_ratio, "limit": v.bar.limit}
            | {"value": v.value, "is_kept": v.is_kept}
            for v in verdicts(result)
        ],
        "problems": result.problems,
    }


def _rank(metric: str) -> tuple[bool, bool, str]:
    """CPU and the like first, then latencies, then what is added to them."""
    return (metric.startswith("added_"), metric not in _LABELS, metric)


def _label(metric: str) -> str:
    if metric in _LABELS:
        return _LABELS[metric]
    *added, kind, share, unit = metric.split("_")
    return f"{'added: ' if added else ''}{_LATENCY_LABELS[kind]}, {share}, {unit}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"


def _judgement(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    subject = "" if verdict.bar.is_ratio else "ours "
    word = "not measured" if verdict.value is None else "kept" if verdict.is_kept else "BROKEN"
    return f"{subject}<= {verdict.bar.limit:g} {word}"
