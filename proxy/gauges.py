"""What metrics read off the objects themselves, at each scrape."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from proxy.routing.pool import Pool

if TYPE_CHECKING:
    from proxy.app import Service


def declare_gauges(service: Service) -> None:
    """Binds every gauge that is read at a scrape."""
    gauge = service.metrics.gauge_from
    pool, carriers, now = service.pool, service.carriers, service.clock.monotonic
    budget = service.carriage.retrier.budget
    gauge("pd_client_connections", lambda: len(service.door.connections))
    gauge("pd_upstream_connections", lambda: {("open",): carriers.open, ("idle",): carriers.idle})
    gauge("pd_held_bytes", lambda: service.ledger.held_bytes)
    gauge("pd_retry_budget_left", lambda: max(0.0, budget.left(now())))
    gauge("pd_queue_depth", lambda: service.admission.waiting)
    gauge("pd_legs_in_flight", lambda: _legs(pool))
    gauge("pd_draining", lambda: int(service.leaving.begun))
    gauge("pd_build_info", lambda: {(service.deps.version,): 1})
    gauge("pd_workers", lambda: _workers(pool))
    gauge("pd_workers_benched", lambda: pool.open_members)
    gauge("pd_edges_open", lambda: pool.open_edges)
    if (watcher := service.watcher) is not None:
        gauge("pd_registry_age_seconds", lambda: watcher.age_s(now()))
        gauge("pd_registry_workers", lambda: watcher.workers)
        gauge("pd_registry_connected", lambda: int(watcher.connected))


def _legs(pool: Pool) -> dict[tuple[str, ...], float]:
    return {(m.worker.worker_id, m.worker.role.value): m.in_flight for m in pool.members()}


def _workers(pool: Pool) -> dict[tuple[str, ...], float]:
    kinds = Counter(
        (m.worker.role.value, m.worker.state.value, str(m.standing_by is None).lower())
        for m in pool.members()
    )
    return {kind: float(count) for kind, count in kinds.items()}
