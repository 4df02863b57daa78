"""The worker's metrics, read from what it is about at the moment of the scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from workers.announcer import Announcer
from workers.engine_api import Load
from workers.supervisor import Phase, Supervisor

_ENGINE: tuple[tuple[str, str, Callable[[Load], float | None]], ...] = (
    ("running_requests", "Requests that the engine runs.", lambda load: load.running),
    ("waiting_requests", "Requests that wait in the engine.", lambda load: load.waiting),
    (
        "transferring_requests",
        "Requests between prefill and decode: handshake, KV on its way, retracted.",
        lambda load: load.transferring,
    ),
    ("used_tokens", "Tokens that the KV pool holds.", lambda load: load.used_tokens),
    ("token_usage_ratio", "Share of the KV pool in use, of the fullest rank.", lambda load: load.token_usage),
    ("busy", "0 when the engine is idle (0.5.2: tokens; later: requests).", lambda load: load.busy),
    (
        "generated_tokens_per_second",
        "Output, by the engine's own reckoning.",
        lambda load: load.gen_tokens_per_s,
    ),
    (
        "kv_transfer_gigabytes_per_second",
        "Speed of the last KV transfers, of the fastest rank.",
        lambda load: load.kv_transfer_gb_per_s,
    ),
    (
        "kv_transfer_latency_seconds",
        "Time that the last KV transfers took, of the slowest rank.",
        lambda load: load.kv_transfer_s,
    ),
)


class Figures(Collector):
    """One prometheus collector; everything unknown is left out, never told as 0."""

    def __init__(self, supervisor: Supervisor, announcer: Announcer, info: dict[str, str]) -> None:
        """`info`: labels of `pd_worker_info`."""
        self._supervisor = supervisor
        self._announcer = announcer
        self._info = info
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def render(self) -> bytes:
        """The exposition, as Prometheus scrapes it."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """All families, of this moment."""
        supervisor, announcer = self._supervisor, self._announcer
        about = GaugeMetricFamily("pd_worker_info", "What this worker is; always 1.", labels=list(self._info))
        about.add_metric(list(self._info.values()), 1)
        yield about
        serving = supervisor.phase in (Phase.READY, Phase.DRAINING)
        yield GaugeMetricFamily("pd_worker_up", "1 while the engine serves.", value=serving)
        state = GaugeMetricFamily("pd_worker_state", "1 for what it is about now.", labels=["state"])
        for phase in Phase:
            state.add_metric([phase], phase is supervisor.phase)
        yield state
        yield CounterMetricFamily(
            "pd_worker_crashes", "Lives of the engine that ended unasked.", value=supervisor.restarts.count
        )
        if announcer.enabled:
            yield GaugeMetricFamily(
                "pd_worker_registered", "1 while the key stands in etcd.", value=announcer.registered
            )
        if announcer.registered:
            yield GaugeMetricFamily(
                "pd_worker_lease_age_seconds",
                "Since etcd last confirmed the lease.",
                value=announcer.lease_age_s,
            )
        load = supervisor.load
        yield GaugeMetricFamily(
            "pd_worker_engine_load_known",
            "1 if the engine's load was read last time.",
            value=load is not None,
        )
        if load is not None:
            yield from _engine(load)


def _engine(load: Load) -> Iterator[Metric]:
    for name, told, read in _ENGINE:
        value = read(load)
        if value is not None:
            yield GaugeMetricFamily(f"pd_worker_engine_{name}", told, value=value)
