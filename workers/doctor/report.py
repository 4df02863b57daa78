"""`pd-worker doctor [--json] [the flags of a launch]`: examines, and prints one line for each finding."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from proxy.errors import SettingsError
from workers.doctor.checks import check
from workers.doctor.finding import Finding, exit_code
from workers.doctor.node import ask_registry, examine
from workers.settings import WorkerSettings, read_settings

_BAD_SETTING = 2


def main(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Runs the doctor with the words after `pd-worker doctor`.

    Returns:
        The exit code: 0, 1 if anything will not work, 2 if a setting is wrong.
    """
    own = [word for word in arguments if word != "--json"]
    try:
        findings = consult(read_settings(own), environ)
    except (SettingsError, ValueError) as error:
        for line in str(error).splitlines():
            print(f"pd-worker: {line}", file=sys.stderr)
        return _BAD_SETTING
    print(as_json(findings) if len(own) < len(arguments) else as_text(findings))
    return exit_code(findings)


def consult(settings: WorkerSettings, environ: Mapping[str, str]) -> list[Finding]:
    """Examines this node for a launch with these settings; without a model, the node alone.

    Raises:
        ValueError: the settings of etcd are wrong.
    """
    rules = settings.etcd_rules()
    launch = settings.launch_or_node()
    node = examine(launch, environ)
    if rules is not None and node.facts is not None:
        model = launch.served_model_name or node.facts.name or launch.model
        others, error = asyncio.run(ask_registry(rules, launch.registry_root, model))
        node = replace(node, other_fingerprints=others, registry_error=error)
    return check(node)


def as_text(findings: Sequence[Finding]) -> str:
    """For people."""
    return "\n".join(finding.line() for finding in findings)


def as_json(findings: Sequence[Finding]) -> str:
    """For scripts: a list of objects, in the order of the report."""
    return json.dumps([asdict(finding) for finding in findings], indent=2)
