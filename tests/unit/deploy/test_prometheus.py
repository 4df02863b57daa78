"""deploy/prometheus: Prometheus takes it, it names what exists, every alert fires and rests as meant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from proxy.telemetry.families import ITL_S, TTFT_S
from proxy.telemetry.metrics import NO_LOSS
from tests.unit.deploy.exported import strangers
from tests.unit.deploy.needed import DEPLOY, ROOT, documents, done, promtool

FOLDER = DEPLOY / "prometheus"
RULES = sorted(FOLDER.glob("*.rules.yml"))
TESTS = sorted((FOLDER / "tests").glob("*.test.yml"))
SEVERITIES = {"page", "ticket"}


def rules(kind: str) -> list[dict[str, Any]]:
    """`kind`: alert or record."""
    files = [documents(path)[0] for path in RULES]
    return [rule for file in files for group in file["groups"] for rule in group["rules"] if kind in rule]


def test_prometheus_takes_the_configuration() -> None:
    done([promtool(), "check", "config", "prometheus.yml"], FOLDER)


def test_every_kind_of_target_that_a_proxy_tells_of_has_a_job() -> None:
    (found,) = documents(FOLDER / "prometheus.yml")
    jobs = {job["job_name"]: job for job in found["scrape_configs"]}
    assert set(jobs) == {"pd-proxy", "sglang", "pd-worker"}
    for name in ("sglang", "pd-worker"):
        assert jobs[name]["relabel_configs"] == [{"source_labels": ["job"], "regex": name, "action": "keep"}]


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_alerts_fire_and_rest_as_meant(path: Path) -> None:
    done([promtool(), "test", "rules", path.name], path.parent)


def test_every_alert_is_tested_firing_and_at_rest() -> None:
    told = [
        (case["alertname"], bool(case["exp_alerts"]))
        for path in TESTS
        for test in documents(path)[0]["tests"]
        for case in test.get("alert_rule_test", [])
    ]
    wanted = {(rule["alert"], fires) for rule in rules("alert") for fires in (True, False)}
    assert wanted - set(told) == set()


def test_both_rules_of_an_alert_are_tested_firing() -> None:
    fired = [
        (case["alertname"], alert["exp_labels"])
        for path in TESTS
        for test in documents(path)[0]["tests"]
        for case in test.get("alert_rule_test", [])
        for alert in case["exp_alerts"]
    ]
    never = [
        (rule["alert"], rule["labels"])
        for rule in rules("alert")
        if not any(name == rule["alert"] and rule["labels"].items() <= by.items() for name, by in fired)
    ]
    assert never == []


def test_rules_name_only_what_is_exported() -> None:
    named = [rule["expr"] for kind in ("alert", "record") for rule in rules(kind)]
    assert [stranger for expr in named for stranger in strangers(expr)] == []


def test_rules_name_only_recordings_that_are_made() -> None:
    made = {rule["record"] for rule in rules("record")}
    named = [rule["expr"] for kind in ("alert", "record") for rule in rules(kind)]
    used = {name for expr in named for name in re.findall(r"\bjob\w*:[\w:]+", expr)}
    assert used <= made


def test_bounds_named_are_bounds_of_the_histogram() -> None:
    bounds = {
        "pd_time_to_first_token_seconds_bucket": {str(float(bound)) for bound in TTFT_S},
        "pd_inter_token_seconds_bucket": {str(float(bound)) for bound in ITL_S},
    }
    named = re.findall(r'(\w+)\{le="([^"]+)"\}', (FOLDER / "recording.rules.yml").read_text())
    assert len(named) == 8
    assert [(name, le) for name, le in named if le not in bounds[name]] == []


def test_an_alert_says_how_urgent_it_is_and_where_to_read_on() -> None:
    page = (ROOT / "docs" / "runbook.md").read_text()
    sections = {heading.lower(): heading for heading in re.findall(r"^## (\w+)$", page, re.MULTILINE)}
    for rule in rules("alert"):
        assert rule["labels"]["severity"] in SEVERITIES
        assert rule["annotations"]["summary"]
        path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert path == "{{ $externalLabels.pd_docs }}/runbook.md"
        assert sections[anchor] == rule["alert"]


def test_the_label_that_links_begin_with_is_set_and_stays_off_the_alerts() -> None:
    (found,) = documents(FOLDER / "prometheus.yml")
    assert found["global"]["external_labels"]["pd_docs"].startswith("https://")
    assert found["alerting"]["alert_relabel_configs"] == [{"regex": "pd_docs", "action": "labeldrop"}]


def test_the_runbook_has_no_section_of_an_alert_that_is_gone() -> None:
    page = (ROOT / "docs" / "runbook.md").read_text()
    assert set(re.findall(r"^## (Pd\w+)$", page, re.MULTILINE)) == {rule["alert"] for rule in rules("alert")}


def test_what_is_no_loss_is_told_alike_everywhere() -> None:
    told = re.findall(r'outcome!~"([^"]+)"', (FOLDER / "recording.rules.yml").read_text())
    assert len(told) == 2
    assert all(set(one.split("|")) == NO_LOSS for one in told)
