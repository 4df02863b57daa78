"""Runs a scenario: the same load on each proxy in turn, round after round."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.accounting import Cores, tree, tree_rss_bytes
from bench.processes import Failed, Stub, load_command, proxy, stub
from bench.scenarios import Scenario, http_request

Sample = dict[str, float]
"""The figures of one run, by metric; units stand in the names."""

WARM_UP_S = 0.7
DIRECT = "direct"
_LATENCIES = ("latency_us", "ttft_us", "gap_us", "transit_us")


@dataclass(slots=True)
class Result:
    """What a scenario gave: a sample for each subject and round, and whatever went wrong."""

    scenario: Scenario
    rounds: dict[str, list[Sample]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Load:
    """What every subject of a scenario is given."""

    scenario: Scenario
    engines: Stub
    request_file: Path


def measure(scenario: Scenario, subjects: list[str], cores: Cores) -> Result:
    """Measure the proxies named in `subjects` in interleaved rounds, each run with a fresh process.

    A process's heap settles in one of several states, which makes a third of the cost of big bodies:
    fresh ones let the median see them all.

    Raises:
        Failed: a proxy did not start, or the load generator gave no result.
    """
    result = Result(scenario)
    order = [DIRECT, *subjects] if scenario.with_direct else subjects
    with tempfile.TemporaryDirectory() as folder, stub(scenario) as engines:
        request_file = Path(folder, "request")
        request_file.write_bytes(http_request(scenario.body()))
        load = Load(scenario, engines, request_file)
        for number in range(1, scenario.rounds + 1):
            for name in order:
                print(f"bench: {scenario.name}, round {number}/{scenario.rounds}, {name}", file=sys.stderr)
                report, sample = _one(load, name, cores)
                result.rounds.setdefault(name, []).append(sample)
                if report["failures"]:
                    lost, first = report["failures"], report["first_failure"]
                    result.problems.append(f"{name}, round {number}: {lost} failed, the first: {first}")
    add_what_proxies_add(result.rounds)
    return result


def figures(report: dict[str, Any], scenario: Scenario) -> Sample:
    """The load generator's report as metrics."""
    sample: Sample = {}
    for name in _LATENCIES:
        for share, value in report.get(name, {}).items():
            sample[f"{name.removesuffix('_us')}_{share}_us"] = value
    unit = "event" if scenario.is_stream else "request"
    count = report[f"{unit}s"]
    if count and not scenario.hold_after:
        sample[f"{unit}s_per_s"] = count / report["seconds"]
        if report["cpu_ns"]:
            sample[f"cpu_us_per_{unit}"] = report["cpu_ns"] / 1000 / count
    return sample


def add_what_proxies_add(rounds: dict[str, list[Sample]]) -> None:
    """Add to each sample, as added_*, its latencies less those of the stub itself in the same round."""
    for name, samples in rounds.items():
        if name == DIRECT:
            continue
        for sample, direct in zip(samples, rounds.get(DIRECT, []), strict=False):
            added = {f"added_{m}": sample[m] - direct[m] for m in direct if m.endswith("_us") and m in sample}
            sample.update(added)


def _one(load: Load, name: str, cores: Cores) -> tuple[dict[str, Any], Sample]:
    """One run on the proxy `name`, warm, or on the decode stub itself."""
    if name == DIRECT:
        return _run(load, load.engines.decode_port, pid=None)
    with proxy(name, load.engines.backends, cores.proxy) as subject:
        print(f"bench: {name} is pid {subject.pid}, port {subject.port}", file=sys.stderr)
        if not load.scenario.is_stream:  # the ramp warms a stream's proxy
            _run(
                replace(load, scenario=replace(load.scenario, window_s=WARM_UP_S)), subject.port, subject.pid
            )
        return _run(load, subject.port, subject.pid)


def _run(load: Load, port: int, pid: int | None) -> tuple[dict[str, Any], Sample]:
    """One run of the load generator: its report, and the metrics, those of memory among them."""
    command = load_command(load.scenario, load.request_file, port, tree(pid) if pid else [])
    before_bytes = tree_rss_bytes(pid) if pid else 0
    resting_bytes = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as generator:
        assert generator.stdout is not None
        line = ""
        try:
            for line in generator.stdout:
                if load.scenario.hold_after and line.startswith('{"open"'):
                    time.sleep(load.scenario.window_s)
                    resting_bytes = tree_rss_bytes(pid) if pid else 0
                    load.engines.release()
        except BaseException:
            generator.kill()  # or the way out would wait for it
            raise
    if not line.startswith('{"requests"'):
        raise Failed(f"the load generator ended with code {generator.returncode} and no result")
    report = json.loads(line)
    sample = figures(report, load.scenario)
    if resting_bytes:
        sample["kb_per_stream"] = (resting_bytes - before_bytes) / load.scenario.connections / 1000
    if pid:
        sample["rss_mb"] = (resting_bytes or tree_rss_bytes(pid)) / 1e6
    return report, sample
