"""What the batch script runs: `python -m deploy.slurm.job prepare | look | plan | node PLAN | show`.

`prepare` and `plan` print commands for bash, one a line; all that is for people goes to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
from collections.abc import Sequence

import msgspec

from deploy.slurm.benchmark.settings import read_settings as read_benchmark
from deploy.slurm.job import steps, verdict
from deploy.slurm.job.agent import Agent
from deploy.slurm.job.layout import Place, places
from deploy.slurm.job.look import as_line, look, read_looks
from deploy.slurm.job.plan import JobPlan, NodePlan, make_plan
from deploy.slurm.job.settings import JobSettings, read_settings
from proxy.clock import SystemClock, sleep
from proxy.errors import SettingsError

_PROGRAM = "run_xPyD_models.slurm"
_WRONG, _UNFIT = 2, 3
"""Exit codes: a setting is wrong; a node is not fit for its part. Nothing was started."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.slurm.job", description=__doc__)
    words = parser.add_subparsers(dest="word", required=True)
    for word, text in (
        ("prepare", "check the settings, print the step that cleans, then those that look"),
        ("look", "look at this node, print one line of JSON"),
        ("plan", "read all looks from stdin, print each node's step"),
        ("show", "print the plan without asking any node"),
    ):
        words.add_parser(word, help=text)
    node = words.add_parser("node", help="run this node's part")
    node.add_argument("--line", action="store_true", help="end when stdin is closed")
    node.add_argument("plan", help="its plan as JSON")
    said = parser.parse_args(argv)
    if said.word == "node":
        return _node(said.plan, line=said.line)
    try:
        settings = read_settings(os.environ)
        if not settings.skip_benchmark:
            read_benchmark([], {**os.environ, "MODEL_NAME": settings.model, "SLURM_JOB_ID": settings.job})
        own = places(settings, os.environ.get("PD_JOB_NODES", "").split() or _unnamed(settings))
    except SettingsError as error:
        _complain(error.message.splitlines())
        return _WRONG
    return {"prepare": _prepare, "look": _look, "plan": _plan, "show": _show}[said.word](settings, own)


def _unnamed(settings: JobSettings) -> list[str]:
    """Nodes for a dry run outside of a job."""
    return [f"NODE{rank}" for rank in range(settings.nodes)]


def _passed() -> list[str]:
    return os.environ.get("PD_JOB_PASSED", "").split()


def _prepare(settings: JobSettings, own: Sequence[Place]) -> int:
    print(shlex.join(steps.of_cleaning(settings, own)))
    for place in own:
        print(shlex.join(steps.of_look(settings, place, _passed())))
    return 0


def _look(settings: JobSettings, own: Sequence[Place]) -> int:
    name = os.environ.get("SLURMD_NODENAME", "")
    place = next((each for each in own if each.node == name), None)
    if place is None:
        _complain([f"SLURMD_NODENAME: {name!r} is none of the job's nodes"])
        return _WRONG
    print(as_line(look(settings, place, own[0].node, os.environ)), flush=True)
    return 0


def _plan(settings: JobSettings, own: Sequence[Place]) -> int:
    looks = read_looks(sys.stdin.read())
    found = verdict.problems(settings, own, looks)
    if found:
        _complain([*found, "nothing was started"])
        return _UNFIT
    weights = [looks[place.node].weights for place in own]
    notes = verdict.notes(settings, own, looks)
    plan = make_plan(settings, own, verdict.addresses(own, looks), weights, _passed(), notes)
    print(plan.render(), file=sys.stderr)
    _print_steps(plan)
    return 0


def _print_steps(plan: JobPlan) -> None:
    for step in plan.steps:
        print(shlex.join(step))


def _show(settings: JobSettings, own: Sequence[Place]) -> int:
    nothing = [None] * len(own)
    print(make_plan(settings, own, nothing, nothing, _passed()).render(), end="")
    return 0


def _node(text: str, *, line: bool) -> int:
    plan = msgspec.json.decode(text, type=NodePlan)
    agent = Agent(plan, os.environ["PD_JOB_SECRET"], os.environ, clock=SystemClock(), sleep=sleep)
    return asyncio.run(agent.run(line=line))


def _complain(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"{_PROGRAM}: {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
