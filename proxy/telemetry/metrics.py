"""The figures of the data path: plain numbers on objects bound once, turned into metrics only at a scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from proxy.clock import Clock, Sleep
from proxy.roster import Worker
from proxy.telemetry.families import BODY_BYTES, DURATION_S, FAMILIES, ITL_S, LAG_S, TTFT_S, Family, Kind
from proxy.telemetry.histogram import Histogram

MAX_WORKERS = 10_000
OTHER = "other"
"""The worker that stands for all beyond MAX_WORKERS."""
LAG_INTERVAL_S = 0.25
NO_LOSS = frozenset(["ok", "client_gone", "bad_request", "aborted"])
"""Outcomes of requests whose clients got what they asked for, or what they deserved."""

Reading = float | Mapping[tuple[str, ...], float]
"""A gauge's value; with labels, a value for each tuple of them, in the family's order."""
_Row = tuple[tuple[str, ...], float | Histogram]


class RouteMetrics:
    """What happens on one route. Callers add to `in_flight` and observe; no call makes a dict."""

    __slots__ = ("body_bytes", "duration", "ends", "in_flight", "itl", "ttft")

    def __init__(self) -> None:
        self.in_flight = 0
        self.ttft = Histogram(TTFT_S)
        self.itl = Histogram(ITL_S)
        self.duration = Histogram(DURATION_S)
        self.body_bytes = Histogram(BODY_BYTES)
        self.ends: dict[tuple[int, str], int] = {}

    def ended(self, status: int, outcome: str) -> None:
        """Counts a request that ended. `outcome`: one of a closed set."""
        key = (status, outcome)
        self.ends[key] = self.ends.get(key, 0) + 1

    def fold(self) -> None:
        """Counts what the histograms have noted down."""
        self.ttft.fold()
        self.itl.fold()
        self.duration.fold()
        self.body_bytes.fold()


class WorkerMetrics:
    """What happens on one worker."""

    __slots__ = (
        "connect_failures",
        "connects",
        "kv_transfer",
        "leg_duration",
        "outcomes",
        "role",
    )

    def __init__(self, role: str) -> None:
        self.role = role
        self.leg_duration = Histogram(DURATION_S)
        self.kv_transfer = Histogram(TTFT_S)
        """Prefill only: from dispatch to the leg's end."""
        self.outcomes: dict[str, int] = {}
        self.connects = 0
        self.connect_failures = 0

    def ended(self, outcome: str) -> None:
        """Counts a leg that ended. `outcome`: one of a closed set."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def fold(self) -> None:
        """Counts what the histograms have noted down."""
        self.leg_duration.fold()
        self.kv_transfer.fold()


class Metrics(Collector):
    """Owner of all figures; one collector of one registry, read in the event loop's thread only."""

    def __init__(self) -> None:
        self.attempts = 0
        self.queue_wait = Histogram(TTFT_S)
        self.loop_lag = Histogram(LAG_S)
        self.retries_refused = 0
        self.aborts = {"sent": 0, "failed": 0, "dropped": 0}
        """Aborts told to workers, by what came of it."""
        self._retries: dict[str, int] = {}
        self._continuations: dict[str, int] = {}
        self._routes: dict[str, RouteMetrics] = {}
        self._workers: dict[str, WorkerMetrics] = {}
        self._readings: dict[str, Callable[[], Reading]] = {}
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.registry.register(self)

    def route(self, name: str) -> RouteMetrics:
        """The figures of a route; bind them once. `name`: generate, chat_completions or completions."""
        return self._routes.setdefault(name, RouteMetrics())

    def worker(self, worker: Worker) -> WorkerMetrics:
        """The figures of a worker; `forget` it when it goes."""
        found = self._workers.get(worker.worker_id)
        if found is None:
            name = worker.worker_id if len(self._workers) < MAX_WORKERS else OTHER
            found = self._workers.setdefault(name, WorkerMetrics(worker.role))
        return found

    def forget(self, worker_id: str) -> None:
        """Drops a worker's figures; legs still running may go on writing to theirs, unseen."""
        self._workers.pop(worker_id, None)

    def retried(self, reason: str) -> None:
        """Counts an attempt made again. `reason`: one of a closed set."""
        self._retries[reason] = self._retries.get(reason, 0) + 1

    def continued(self, kind: str) -> None:
        """Counts a stream that broke after its first token. `kind`: one of a closed set."""
        self._continuations[kind] = self._continuations.get(kind, 0) + 1

    def gauge_from(self, name: str, read: Callable[[], Reading]) -> None:
        """Has a declared gauge read at each scrape.

        Raises:
            KeyError: `families.FAMILIES` declares no such gauge.
        """
        if not any(family.name == name and family.from_callable for family in FAMILIES):
            raise KeyError(f"{name} is no gauge of FAMILIES that is read at a scrape")
        self._readings[name] = read

    def sweep(self, now: float) -> None:
        """The sweeper: counts what has been noted down since the last time."""
        self.queue_wait.fold()
        self.loop_lag.fold()
        for route in self._routes.values():
            route.fold()
        for worker in self._workers.values():
            worker.fold()

    def exposition(self, accept: str | None) -> tuple[bytes, str]:
        """The body of /metrics and its content type, for a request's Accept header."""
        encode, content_type = choose_encoder(accept or "")
        return encode(self.registry), content_type

    def describe(self) -> list[Metric]:
        """Nothing: registering must not read gauges that are not bound yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family of the list, also where it has no sample yet."""
        rows = self._rows()
        for family in FAMILIES:
            yield _metric(family, rows.get(family.name) or self._read(family))

    def _read(self, family: Family) -> list[_Row]:
        read = self._readings.get(family.name)
        if read is None:
            return []
        reading = read()
        return list(reading.items()) if isinstance(reading, Mapping) else [((), reading)]

    def _loss_ratio(self) -> float:
        ends = [(outcome, n) for of in self._routes.values() for (_, outcome), n in of.ends.items()]
        ended = sum(n for _, n in ends)
        return sum(n for outcome, n in ends if outcome not in NO_LOSS) / ended if ended else 0.0

    def _rows(self) -> dict[str, list[_Row]]:
        routes, workers = self._routes.items(), self._workers.items()
        return {
            "pd_requests_total": [
                ((name, str(status), outcome), n)
                for name, of in routes
                for (status, outcome), n in of.ends.items()
            ],
            "pd_requests_in_flight": [((name,), of.in_flight) for name, of in routes],
            "pd_time_to_first_token_seconds": [((name,), of.ttft) for name, of in routes],
            "pd_inter_token_seconds": [((name,), of.itl) for name, of in routes],
            "pd_request_duration_seconds": [((name,), of.duration) for name, of in routes],
            "pd_request_body_bytes": [((name,), of.body_bytes) for name, of in routes],
            "pd_attempts_total": [((), self.attempts)],
            "pd_retries_total": [((reason,), n) for reason, n in self._retries.items()],
            "pd_continuations_total": [((kind,), n) for kind, n in self._continuations.items()],
            "pd_retries_refused_total": [((), self.retries_refused)],
            "pd_aborts_total": [((result,), n) for result, n in self.aborts.items()],
            "pd_request_loss_ratio": [((), self._loss_ratio())],
            "pd_queue_wait_seconds": [((), self.queue_wait)],
            "pd_event_loop_lag_seconds": [((), self.loop_lag)],
            "pd_leg_duration_seconds": [((name, of.role), of.leg_duration) for name, of in workers],
            "pd_legs_total": [
                ((name, of.role, outcome), n) for name, of in workers for outcome, n in of.outcomes.items()
            ],
            "pd_kv_transfer_seconds": [
                ((name,), of.kv_transfer) for name, of in workers if of.role == "prefill"
            ],
            "pd_upstream_connects_total": [((name, of.role), of.connects) for name, of in workers],
            "pd_upstream_connect_failures_total": [
                ((name, of.role), of.connect_failures) for name, of in workers
            ],
        }


def _metric(family: Family, rows: list[_Row]) -> Metric:
    if family.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, value in rows:
            if isinstance(value, Histogram):
                histogram.add_metric(labels, value.buckets(), value.total)
        return histogram
    made: CounterMetricFamily | GaugeMetricFamily = (
        CounterMetricFamily(family.name, family.help, labels=family.labels)
        if family.kind is Kind.COUNTER
        else GaugeMetricFamily(family.name, family.help, labels=family.labels)
    )
    for labels, value in rows:
        if not isinstance(value, Histogram):
            made.add_metric(labels, value)
    return made


async def measure_loop_lag(metrics: Metrics, clock: Clock, sleep: Sleep) -> None:
    """Runs for ever, as a task of its own: how late the loop comes back from a short sleep."""
    while True:
        before = clock.monotonic()
        await sleep(LAG_INTERVAL_S)
        metrics.loop_lag.observe(max(0.0, clock.monotonic() - before - LAG_INTERVAL_S))
