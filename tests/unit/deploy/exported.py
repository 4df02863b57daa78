"""Which metrics there are, and which ones an expression of PromQL names."""

from __future__ import annotations

import re
from pathlib import Path

from proxy.telemetry.families import FAMILIES, Kind
from workers import figures

_SELECTOR = re.compile(r"(?<![\w:])((?:pd|process|python)_[a-z0-9_]+)\s*(?:\{([^}]*)\})?")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_BY = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)")
TARGET = {"job", "instance", "role", "worker_id", "model", "node", "engine_version"}
"""Labels that a target has, by the scrape configuration and /sd/prometheus."""
_PROCESS = {
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
    "process_start_time_seconds",
}
"""Of prometheus_client, beside the proxy's own."""


def proxys() -> dict[str, set[str]]:
    """Every series of a proxy, with its labels."""
    found: dict[str, set[str]] = {name: set() for name in _PROCESS}
    for family in FAMILIES:
        labels = set(family.labels)
        if family.kind is Kind.HISTOGRAM:
            found[f"{family.name}_bucket"] = labels | {"le"}
            found[f"{family.name}_sum"] = found[f"{family.name}_count"] = labels
        else:
            found[family.name] = labels
    return found


def workers() -> dict[str, set[str]]:
    """Every series of pd-worker, with its labels."""
    source = Path(figures.__file__).read_text()
    names = set(re.findall(r'"(pd_worker_[a-z_]+)"', source))
    names |= {f"pd_worker_engine_{name}" for name, *_ in figures._ENGINE}
    counters = set(re.findall(r'CounterMetricFamily\(\s*"(\w+)"', source))
    names = (names - counters) | {f"{name}_total" for name in counters}
    labels = {"pd_worker_state": {"state"}}
    return {name: labels.get(name, set()) for name in names}


def strangers(expr: str) -> list[str]:
    """Metrics and labels that `expr` names and nobody exports."""
    there = {**proxys(), **workers()}
    found, known = [], set(TARGET)
    for name, matchers in _SELECTOR.findall(_BY.sub("", expr)):
        if name not in there:
            found.append(name)
            continue
        known |= there[name]
        labels = set(_LABEL.findall(matchers)) - TARGET - there[name]
        found += [f"{name}{{{label}}}" for label in sorted(labels)]
    grouped = {label.strip() for labels in _BY.findall(expr) for label in labels.split(",")}
    return found + [f"by ({label})" for label in sorted(grouped - known - {""})]
