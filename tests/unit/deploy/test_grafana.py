"""deploy/grafana: the file is what the code makes, and every query asks for something that there is."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from deploy.grafana.dashboard import GRID, ROWS, dashboard, text
from tests.unit.deploy.exported import proxys, strangers, workers
from tests.unit.deploy.needed import DEPLOY, done, promtool

PANELS = [panel for row in ROWS for panel in row.panels]
EXPRESSIONS = [query.expr for panel in PANELS for query in panel.queries]
RECORDED = set(re.findall(r"record: (\S+)", (DEPLOY / "prometheus" / "recording.rules.yml").read_text()))


def test_the_file_is_what_the_code_makes() -> None:
    assert (DEPLOY / "grafana" / "dashboard.json").read_text() == text()


def test_prometheus_understands_every_query(tmp_path: Path) -> None:
    """As rules of one file, Grafana's variables filled in."""
    asked = [expr.replace("$__rate_interval", "5m").replace("$job", ".+") for expr in EXPRESSIONS]
    assert not [expr for expr in asked if "$" in expr]
    rules = [{"record": f"asked:{number}", "expr": expr} for number, expr in enumerate(asked)]
    file = tmp_path / "asked.rules.json"
    file.write_text(json.dumps({"groups": [{"name": "asked", "rules": rules}]}))
    done([promtool(), "check", "rules", file.name], tmp_path)


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_a_query_names_only_what_is_exported_or_recorded(expr: str) -> None:
    assert strangers(expr) == []
    assert set(re.findall(r"\bjob\w*:[\w:]+", expr)) <= RECORDED


def test_a_stranger_would_be_found() -> None:
    assert strangers('rate(pd_nothing_total{job="x"}[5m])') == ["pd_nothing_total"]
    assert strangers('sum(pd_draining{worker="x"})') == ["pd_draining{worker}"]
    assert strangers("sum by (nonsense) (pd_draining)") == ["by (nonsense)"]


def test_every_metric_but_a_few_can_be_seen() -> None:
    """What no panel and no recording shows is here by decision."""
    shown = " ".join(EXPRESSIONS) + (DEPLOY / "prometheus" / "recording.rules.yml").read_text()
    hidden = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for name in {**proxys(), **workers()}
        if not re.search(rf"\b{re.sub(r'_(bucket|sum|count)$', '', name)}(_bucket|_sum|_count)?\b", shown)
    }
    assert hidden == {
        "pd_attempts_total",  # requests and retries together
        "pd_draining",  # a few seconds of a proxy's life
        "pd_leg_duration_seconds",  # a series for each worker and bound: for questions asked by hand
        "pd_registry_connected",  # the registry's age says it better
        "pd_registry_workers",
        "pd_request_loss_ratio",  # of a proxy's whole life
        "pd_upstream_connects_total",
        "pd_worker_engine_busy",
        "pd_worker_engine_load_known",
        "pd_worker_engine_used_tokens",
        "pd_worker_info",
        "pd_worker_lease_age_seconds",
        "pd_worker_registered",
        "pd_worker_state",
        "pd_worker_up",
        "process_max_fds",
        "process_open_fds",
        "process_start_time_seconds",
    }


def test_panels_have_ids_of_their_own_and_lie_beside_each_other() -> None:
    placed: list[dict[str, Any]] = dashboard()["panels"]
    assert len({panel["id"] for panel in placed}) == len(placed)
    for panel in placed:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= GRID
    assert [(a["title"], b["title"]) for a, b in combinations(placed, 2) if _overlap(a, b)] == []


def test_a_panel_says_what_to_see_in_it() -> None:
    assert [panel.title for panel in PANELS if not panel.tells.endswith(".")] == []
    titles = [(row.title, panel.title) for row in ROWS for panel in row.panels]
    assert len(set(titles)) == len(titles)


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    a, b = one["gridPos"], other["gridPos"]
    return bool(
        a["x"] < b["x"] + b["w"]
        and b["x"] < a["x"] + a["w"]
        and a["y"] < b["y"] + b["h"]
        and b["y"] < a["y"] + a["h"]
    )
