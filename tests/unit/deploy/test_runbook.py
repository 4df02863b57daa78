"""docs/runbook.md names only what there is: metrics, codes, settings, members of answers."""

from __future__ import annotations

import re

from proxy.settings_catalogue import LEAVES, SECTIONS
from tests.test_docs import rows
from tests.unit.deploy.exported import proxys, workers
from tests.unit.deploy.needed import ROOT
from workers.settings import WorkerSettings

PAGE = (ROOT / "docs" / "runbook.md").read_text()
SYMPTOMS = PAGE.split("\n## By what somebody sees\n")[1].split("\n## ")[0]


def test_metrics_named_are_exported() -> None:
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in {**proxys(), **workers()}}
    named = set(re.findall(r"(?<![\w:])(pd_[a-z0-9_]+)", PAGE)) - {"pd_docs"}
    assert {name for name in named if name not in families | set(proxys())} == set()


def test_codes_named_are_codes_or_outcomes() -> None:
    table = SYMPTOMS.split("### A client gets an error")[1].split("\n### ")[0]
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")]
    named = {code for cell in first for code in re.findall(r"`(\w+)`", cell)}
    assert named - set(rows("Codes")) - set(rows("Outcomes")) == set()
    assert len(named) >= 10


def test_settings_named_are_settings() -> None:
    named = re.findall(rf"`((?:{'|'.join(SECTIONS)})\.\w+)`", PAGE)
    assert {name for name in named if name not in LEAVES} == set()
    ours = set(re.findall(r"`(\w+_limit_s|hang_limit_s|crash_limit|registry_root)`", PAGE))
    assert ours <= set(WorkerSettings.model_fields)


def test_every_symptom_leads_somewhere() -> None:
    for part in SYMPTOMS.split("\n### ")[1:]:
        assert re.search(r"\]\(|`", part), part.splitlines()[0]
