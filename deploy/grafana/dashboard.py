"""Makes dashboard.json; a test holds the two together.

python -m deploy.grafana.dashboard > deploy/grafana/dashboard.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from deploy.grafana.machine_rows import ENGINES, PROXIES, WORKERS
from deploy.grafana.panels import Panel, Query
from deploy.grafana.service_rows import LATENCY, MASKED, NOW, REQUESTS

ROWS = (NOW, REQUESTS, LATENCY, MASKED, WORKERS, ENGINES, PROXIES)
GRID = 24
"""Columns of Grafana's grid."""
HEIGHTS = {"stat": 4, "timeseries": 8}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard() -> dict[str, Any]:
    """Grafana's JSON model; imports into Grafana 9 and later."""
    return {
        "uid": "pd-proxy",
        "title": "PD proxy",
        "description": "SGLang in prefill/decode disaggregation: proxies, workers, engines.",
        "tags": ["sglang", "pd-proxy"],
        "schemaVersion": 37,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_datasource(), _job()]},
        "annotations": {"list": [_alerts()]},
        "panels": list(_placed()),
    }


def text() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


def _placed() -> Iterator[dict[str, Any]]:
    """Rows under each other; at most three graphs, or six numbers, side by side."""
    number, top = 0, 0
    for row in ROWS:
        number += 1
        yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "panels": []} | {
            "gridPos": {"x": 0, "y": top, "w": GRID, "h": 1}
        }
        top += 1
        kind = row.panels[0].kind
        beside = 6 if kind == "stat" else (2 if len(row.panels) % 3 else 3)
        width, height = GRID // beside, HEIGHTS[kind]
        for place, panel in enumerate(row.panels):
            number += 1
            at = {"x": place % beside * width, "y": top + place // beside * height, "w": width, "h": height}
            yield _panel(number, panel, at)
        top += -(-len(row.panels) // beside) * height


def _panel(number: int, panel: Panel, at: dict[str, int]) -> dict[str, Any]:
    shape = _stat() if panel.kind == "stat" else _graph(panel)
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.tells,
        "datasource": DATASOURCE,
        "gridPos": at,
        "targets": [_target(chr(ord("A") + i), query) for i, query in enumerate(panel.queries)],
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "thresholds": _thresholds(panel.limit), **shape[0]},
            "overrides": [],
        },
        "options": shape[1],
    }


def _target(letter: str, query: Query) -> dict[str, Any]:
    return {
        "refId": letter,
        "datasource": DATASOURCE,
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "range": True,
    }


def _stat() -> tuple[dict[str, Any], dict[str, Any]]:
    reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    return {}, {"reduceOptions": reduce, "colorMode": "value", "graphMode": "area", "textMode": "value"}


def _graph(panel: Panel) -> tuple[dict[str, Any], dict[str, Any]]:
    drawn = {
        "lineWidth": 1,
        "fillOpacity": 20 if panel.stacked else 0,
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "showPoints": "never",
        "spanNulls": False,
        "thresholdsStyle": {"mode": "off" if panel.limit is None else "dashed"},
    }
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
    return {"custom": drawn}, {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


def _thresholds(limit: float | None) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if limit is not None:
        steps.append({"color": "red", "value": limit})
    return {"mode": "absolute", "steps": steps}


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _job() -> dict[str, Any]:
    """Which fleet: rules and panels add up over a job."""
    query = "label_values(pd_build_info, job)"
    return {
        "name": "job",
        "label": "Fleet",
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": "job"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"text": "All", "value": "$__all"},
    }


def _alerts() -> dict[str, Any]:
    """A mark at the time when each alert begins to fire."""
    return {
        "name": "Alerts",
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertname=~"Pd.+", alertstate="firing"}',
        "titleFormat": "{{alertname}}",
        "step": "60s",
    }


if __name__ == "__main__":
    print(text(), end="")
