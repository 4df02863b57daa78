"""SGLang's own metrics, by their own names: those that a router or a dashboard reads."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from workers.engine.jobs import Job

_BOUNDS_S = (0.001, 0.005, 0.02, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400)


class Histogram:
    """Counts by bucket, seconds."""

    def __init__(self) -> None:
        self.counts = [0] * (len(_BOUNDS_S) + 1)
        self.total_s = 0.0

    def observe(self, value_s: float) -> None:
        """Adds one."""
        self.counts[bisect_left(_BOUNDS_S, value_s)] += 1
        self.total_s += value_s

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        bounds = [*map(str, _BOUNDS_S), "+Inf"]
        return list(zip(bounds, accumulate(map(float, self.counts)), strict=True))


@dataclass(slots=True)
class Totals:
    """What only ever grows."""

    requests: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    cached_tokens: int = 0
    bootstrap_failed: int = 0
    transfer_failed: int = 0
    first_token_s: Histogram = field(default_factory=Histogram)
    whole_s: Histogram = field(default_factory=Histogram)

    def finished(self, job: Job) -> None:
        """Counts a job that has ended."""
        self.requests += 1
        self.prompt_tokens += len(job.ids)
        self.cached_tokens += job.cached_tokens
        if job.failure is not None:
            text = job.failure.message
            self.bootstrap_failed += "bootstrap failed" in text or "handshake failed" in text
            self.transfer_failed += "transfer failed" in text
        if job.first_token_at:
            self.first_token_s.observe(max(job.first_token_at - job.received_at, 0))
        self.whole_s.observe(max(job.finished_at - job.received_at, 0))


class Exposition:
    """Collects when scraped. `gauges` and `counters` give values by name without SGLang's prefix."""

    def __init__(self, labels: dict[str, str]) -> None:
        self._labels = labels
        self._registry = CollectorRegistry(auto_describe=False)
        self.gauges: dict[str, float] = {}
        self.counters: dict[str, float] = {}
        self.histograms: dict[str, Histogram] = {}
        self._registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """For prometheus-client."""
        yield from self._simple(GaugeMetricFamily, self.gauges.items())
        yield from self._simple(CounterMetricFamily, self.counters.items())
        for name, histogram in self.histograms.items():
            family = HistogramMetricFamily(f"sglang:{name}", name, labels=list(self._labels))
            family.add_metric(list(self._labels.values()), histogram.buckets(), histogram.total_s)
            yield family

    def _simple(
        self, kind: type[GaugeMetricFamily] | type[CounterMetricFamily], values: Iterable[tuple[str, float]]
    ) -> Iterator[Metric]:
        for name, value in values:
            family = kind(f"sglang:{name}", name, labels=list(self._labels))
            family.add_metric(list(self._labels.values()), value)
            yield family

    def render(self) -> bytes:
        """The text format."""
        return generate_latest(self._registry)
