"""The plans that pd-worker prints for this version, read by SGLang's own parser of its command line."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.real.fleet import PROJECT, Fleet

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

GOLDEN = PROJECT / "tests" / "unit" / "workers" / "golden"
PARSE = """
import argparse, json, sys
from sglang.srt.server_args import ServerArgs
parser = argparse.ArgumentParser(allow_abbrev=False)
ServerArgs.add_cli_args(parser)
for argv in json.load(open({file!r})):
    known, unknown = parser.parse_known_args(argv)
    assert not unknown, unknown
    print(json.dumps([known.tp_size, known.attn_dp_size, known.disaggregation_mode]))
"""


def engine_words(plan: str) -> list[str]:
    """What stands behind sglang.launch_server in a plan."""
    words = shlex.split(plan.split("\n\n", 1)[1].replace("\\\n", " "))
    return words[words.index("sglang.launch_server") + 1 :]


def test_sglang_understands_every_plan_made_for_its_version(fleet: Fleet, tmp_path: Path) -> None:
    plans = sorted(GOLDEN.glob("*-0.5.23.txt"))
    assert len(plans) >= 13
    file = tmp_path / "plans.json"
    file.write_text(json.dumps([engine_words(plan.read_text()) for plan in plans]))
    said = fleet.run_python(PARSE.format(file=str(file))).splitlines()
    found = dict(zip([plan.name for plan in plans], map(json.loads, said[-len(plans) :]), strict=True))
    assert found["Qwen3-32B-prefill-0.5.23.txt"] == [8, 1, "prefill"]
    assert found["two-nodes-0.5.23.txt"] == [16, 16, "decode"]
