"""Tells Prometheus what to scrape (HTTP service discovery): the proxy and every worker."""

from __future__ import annotations

from urllib.parse import urlsplit

from aiohttp import web

from proxy.control.answers import json_answer
from proxy.control.deps import deps_of
from proxy.roster import Worker


async def targets(request: web.Request) -> web.Response:
    """Target groups, as Prometheus' http_sd_configs wants them."""
    deps = deps_of(request)
    groups: list[dict[str, object]] = []
    if deps.own_addresses:
        own = [_reachable(address, request) for address in deps.own_addresses]
        groups.append({"targets": own, "labels": {"job": "pd-proxy"}})
    groups.extend(_target(member.worker) for member in deps.pool.members())
    return json_answer(groups)


def _reachable(address: str, request: web.Request) -> str:
    """Listening on every address is no address: then the one under which we were just found."""
    host, _, port = address.rpartition(":")
    if host.strip("[]") not in ("", "0.0.0.0", "::"):
        return address
    found = request.url.host or "127.0.0.1"
    return f"[{found}]:{port}" if ":" in found else f"{found}:{port}"


def _target(worker: Worker) -> dict[str, object]:
    labels = {
        "job": "sglang",
        "__scheme__": urlsplit(worker.url).scheme,
        "worker_id": worker.worker_id,
        "role": worker.role.value,
        "model": worker.model or "",
        "node": worker.node or "",
        "engine_version": worker.engine_version or "",
    }
    return {"targets": [urlsplit(worker.url).netloc], "labels": {k: v for k, v in labels.items() if v}}


ROUTES = [web.get("/sd/prometheus", targets)]
