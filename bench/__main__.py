"""`python -m bench`: build, measure, print, judge."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from bench import accounting, build, report, runner
from bench.processes import Failed
from bench.scenarios import DEFAULT, SCENARIOS, Scenario, quick, with_tokens


def main() -> int:
    """Exit code: 0 all bars kept, 1 a bar broken or a request failed, 2 nothing could be measured."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # so that what was started is ended
    try:
        build.compile_programs()
        if arguments.only != report.OURS:
            build.install_peers()
        accounting.raise_file_limit()
        cores = accounting.split_cores(os.sched_getaffinity(0))
        accounting.use_cores(cores.load)
        results = []
        for name in arguments.scenarios or DEFAULT:
            scenario = _as_asked(SCENARIOS[name], arguments)
            results.append(runner.measure(scenario, _subjects(scenario, arguments.only), cores))
            print(report.table(results[-1]), end="\n\n", flush=True)
    except (build.BuildError, Failed) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        summary = {result.scenario.name: report.as_json(result) for result in results}
        arguments.json.write_text(json.dumps(summary, indent=2) + "\n")
    return int(_is_bad(results, judges=not (arguments.no_bars or arguments.only)))


def _is_bad(results: list[runner.Result], judges: bool) -> bool:
    if any(result.problems for result in results):
        return True
    return judges and not all(v.is_kept for result in results for v in report.verdicts(result))


def _subjects(scenario: Scenario, only: str | None) -> list[str]:
    if only:
        return [only]
    return [report.OURS, report.THEIRS] if scenario.with_peer else [report.OURS]


def _as_asked(scenario: Scenario, arguments: argparse.Namespace) -> Scenario:
    if arguments.quick:
        scenario = quick(scenario)
    if arguments.tokens:
        scenario = with_tokens(scenario, arguments.tokens)
    return replace(
        scenario,
        rounds=arguments.rounds or scenario.rounds,
        window_s=arguments.seconds or scenario.window_s,
    )


def _arguments() -> argparse.Namespace:
    described = "\n".join(f"  {s.name:<10}{s.title}" for s in SCENARIOS.values())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Run the proxy beside sglang-router 0.3.2 on the same stub engines, round by round,\n"
        "and hold the CPU that it costs against the bars. See bench/README.md.",
        epilog=f"scenarios:\n{described}\nwithout a name: {', '.join(DEFAULT)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="which to run, by name (see below)")
    parser.add_argument(
        "--quick", action="store_true", help="two short rounds: for a glance, not for a verdict"
    )
    parser.add_argument("--no-bars", action="store_true", help="only measure: a broken bar is no error")
    parser.add_argument(
        "--only", choices=(report.OURS, report.THEIRS), help="measure one proxy, judge nothing"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of each scenario")
    parser.add_argument("--seconds", type=float, metavar="S", help="length of a round's window")
    parser.add_argument("--tokens", type=int, metavar="N", help="events of a stream, or before it rests")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to FILE")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.scenarios if name not in SCENARIOS]
    if unknown:
        parser.error(f"unknown scenario {', '.join(unknown)}: choose from {', '.join(SCENARIOS)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
