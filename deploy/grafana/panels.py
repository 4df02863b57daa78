"""The nouns of a dashboard: a row has panels, a panel has queries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Query:
    """A line, or a set of lines, of a panel."""

    expr: str
    """PromQL, with Grafana's $job and $__rate_interval."""
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph, or a number (`kind` stat)."""

    title: str
    tells: str
    """What the reader should see in it, shown behind the panel's (i)."""
    unit: str
    """Grafana's name: reqps, s, percentunit, bytes, short."""
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    limit: float | None = None
    """Red from here on."""
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


def q(expr: str, legend: str = "") -> Query:
    """A query."""
    return Query(expr, legend)


def rate(metric: str, by: str, matchers: str = "") -> str:
    """A counter's rate, added up over all labels but `by`."""
    return f'sum by ({by}) (rate({metric}{{job=~"$job"{matchers}}}[$__rate_interval]))'


def quantiles(metric: str, matchers: str = "") -> tuple[Query, ...]:
    """Median, p95 and p99 of a histogram."""
    return tuple(
        q(f"histogram_quantile({share}, {rate(f'{metric}_bucket', 'le', matchers)})", name)
        for share, name in ((0.5, "median"), (0.95, "p95"), (0.99, "p99"))
    )
