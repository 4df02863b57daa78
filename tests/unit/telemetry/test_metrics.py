"""Metrics: what is counted is scraped, under names that stand in one list."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from proxy.roster import Role, Worker
from proxy.telemetry.families import FAMILIES, Family, Kind, markdown
from proxy.telemetry.histogram import Histogram
from proxy.telemetry.metrics import LAG_INTERVAL_S, Metrics, measure_loop_lag

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


def a_worker(name: str, role: Role) -> Worker:
    return Worker(name, "http://10.0.0.1:30001", role)


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[str]], float]:
    text = metrics.exposition(None)[0].decode()
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def test_the_page_of_metrics_is_up_to_date() -> None:
    assert PAGE.read_text() == markdown(), "run: python -m proxy.telemetry.families > docs/metrics.md"


def test_every_family_is_exported_and_none_beside_the_list() -> None:
    scraped = {f.name for f in parse(Metrics().exposition(None)[0].decode()) if f.name.startswith("pd_")}
    assert scraped == {family.name.removesuffix("_total") for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_names_follow_the_conventions(family: Family) -> None:
    name, kind, text = family.name, family.kind, family.help
    assert name.startswith("pd_")
    assert (kind is Kind.COUNTER) == name.endswith("_total")
    assert text.endswith(".")
    if kind is Kind.HISTOGRAM:
        assert name.endswith(("_seconds", "_bytes"))


def test_what_is_counted_is_scraped() -> None:
    metrics = Metrics()
    route = metrics.route("generate")
    route.in_flight += 2
    route.ended(200, "ok")
    route.ended(200, "ok")
    route.ttft.observe(0.05)
    worker = metrics.worker(a_worker("p0", Role.PREFILL))
    worker.ended("reset")
    worker.kv_transfer.observe(3)
    worker.connects += 4
    worker.connect_failures += 1
    metrics.worker(a_worker("d0", Role.DECODE))
    metrics.attempts += 3
    metrics.retried("connect")
    metrics.gauge_from("pd_held_bytes", lambda: 7)
    metrics.gauge_from(
        "pd_workers", lambda: {("prefill", "ready", "true"): 1, ("decode", "ready", "false"): 2}
    )
    got = samples(metrics)
    assert got["pd_requests_total", frozenset(("generate", "200", "ok"))] == 2
    assert got["pd_requests_in_flight", frozenset(("generate",))] == 2
    assert got["pd_time_to_first_token_seconds_bucket", frozenset(("generate", "0.05"))] == 1
    assert got["pd_time_to_first_token_seconds_bucket", frozenset(("generate", "0.025"))] == 0
    assert got["pd_time_to_first_token_seconds_sum", frozenset(("generate",))] == pytest.approx(0.05)
    assert got["pd_legs_total", frozenset(("p0", "prefill", "reset"))] == 1
    assert got["pd_kv_transfer_seconds_count", frozenset(("p0",))] == 1
    assert ("pd_kv_transfer_seconds_count", frozenset({"d0"})) not in got
    assert got["pd_upstream_connects_total", frozenset(("p0", "prefill"))] == 4
    assert got["pd_upstream_connect_failures_total", frozenset(("p0", "prefill"))] == 1
    assert got["pd_attempts_total", frozenset()] == 3
    assert got["pd_retries_total", frozenset(("connect",))] == 1
    assert got["pd_held_bytes", frozenset()] == 7
    assert got["pd_workers", frozenset(("decode", "ready", "false"))] == 2
    assert "process_open_fds" in {name for name, _ in got}


def test_a_forgotten_worker_is_no_longer_scraped() -> None:
    metrics = Metrics()
    metrics.worker(a_worker("p0", Role.PREFILL))
    metrics.forget("p0")
    assert not [labels for _, labels in samples(metrics) if "p0" in labels]


def test_workers_beyond_the_bound_share_one_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.telemetry.metrics.MAX_WORKERS", 1)
    metrics = Metrics()
    for name in ("d0", "d1", "d2"):
        metrics.worker(a_worker(name, Role.DECODE)).connects += 1
    got = samples(metrics)
    assert got["pd_upstream_connects_total", frozenset(("d0", "decode"))] == 1
    assert got["pd_upstream_connects_total", frozenset(("other", "decode"))] == 2


def test_a_gauge_that_is_not_declared_is_refused() -> None:
    with pytest.raises(KeyError, match="pd_surprise"):
        Metrics().gauge_from("pd_surprise", lambda: 1)


def test_openmetrics_is_given_when_asked_for() -> None:
    metrics = Metrics()
    metrics.route("generate").ttft.observe(1)
    body, content_type = metrics.exposition("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert any(family.name == "pd_requests" for family in parse_openmetrics(body.decode()))


def test_a_sweep_counts_what_was_noted_down_so_that_the_notes_stay_few() -> None:
    metrics = Metrics()
    route, worker = metrics.route("generate"), metrics.worker(a_worker("p0", Role.PREFILL))
    histograms = [
        *(route.ttft, route.itl, route.duration, route.body_bytes),
        *(worker.leg_duration, worker.kv_transfer, metrics.queue_wait, metrics.loop_lag),
    ]
    for _ in range(3):
        for histogram in histograms:
            histogram.observe(0.5)
            histogram.observe(1e9)
        metrics.sweep(0.0)
        assert not any(histogram._noted for histogram in histograms)
    assert {histogram.count for histogram in histograms} == {6}
    assert {histogram.total for histogram in histograms} == {3 * (1e9 + 0.5)}


def test_bounds_that_do_not_ascend_are_refused() -> None:
    with pytest.raises(ValueError, match="ascend"):
        Histogram([1, 1])


async def test_the_lag_is_how_much_longer_a_sleep_took() -> None:
    class Hand:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

        def time(self) -> float:
            return self.now

    clock, metrics, naps = Hand(), Metrics(), 0

    async def sleep(delay_s: float) -> None:
        nonlocal naps
        naps += 1
        clock.now += delay_s + 0.5
        if naps == 3:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await measure_loop_lag(metrics, clock, sleep)
    assert metrics.loop_lag.count == 2
    assert metrics.loop_lag.total == pytest.approx(1.0)
    assert LAG_INTERVAL_S > 0
