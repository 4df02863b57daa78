"""A worker as the control routes show it: sglang-router's fields first, then what only we know."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from proxy.routing.member import Member
from proxy.routing.placement import Edge

Partners = Mapping[str, Sequence[str]]
"""By a worker's id: those of the workers that it is benched with."""


def partners(benched: Iterable[Edge]) -> Partners:
    """Each edge under both of its ends."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for prefill, decode in benched:
        found[prefill].append(decode)
        found[decode].append(prefill)
    return found


def worker_view(member: Member, benched_with: Partners, now: float) -> dict[str, object]:
    """One worker. `now`: monotonic seconds."""
    worker = member.worker
    seen_ago_s = now - member.last_ok_at
    return {
        "id": worker.worker_id,
        "url": worker.url,
        "model_id": worker.model or "unknown",
        "priority": 50,
        "cost": 1.0,
        "worker_type": worker.role.value,
        "is_healthy": member.standing_by is None,
        "load": member.in_flight,
        "connection_mode": "HTTP",
        "bootstrap_port": worker.bootstrap_port,
        "metadata": dict(worker.labels),
        "bootstrap_host": worker.bootstrap_host,
        "state": worker.state.value,
        "reason": member.standing_by,
        "in_flight": member.in_flight,
        "cap": member.cap,
        "breaker": _breaker(member, now),
        "benched_with": sorted(benched_with.get(worker.worker_id, ())),
        "probe": {None: "unknown", True: "ok", False: "failed"}[member.probe_ok],
        "last_ok_s_ago": round(seen_ago_s, 3) if seen_ago_s != float("inf") else None,
        "origin": worker.origin.value,
        "weight": worker.weight,
        "instance": worker.instance,
        "engine_version": worker.engine_version,
        "tp_size": worker.tp_size,
        "dp_size": worker.dp_size,
        "node": worker.node,
        "control_url": worker.control_url,
    }


def _breaker(member: Member, now: float) -> str:
    if member.breaker.closed:
        return "closed"
    return "half_open" if member.breaker.admits(now) else "open"
