"""Tells Prometheus what to scrape (HTTP service discovery): the proxy, the engines, pd-worker beside each."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

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
    for member in deps.pool.members():
        groups.extend(_targets(member.worker))
    return json_answer(groups)


def _reachable(address: str, request: web.Request) -> str:
    """Listening on every address is no address: then the one under which we were just found."""
    host, _, port = address.rpartition(":")
    if host.strip("[]") not in ("", "0.0.0.0", "::"):
        return address
    found = request.url.host or "127.0.0.1"
    return f"[{found}]:{port}" if ":" in found else f"{found}:{port}"


def _targets(worker: Worker) -> Iterator[dict[str, object]]:
    """The engine, as job `sglang`, and pd-worker, as job `pd-worker`, where the worker is one of its."""
    about = {
        "worker_id": worker.worker_id,
        "role": worker.role.value,
        "model": worker.model or "",
        "node": worker.node or "",
        "engine_version": worker.engine_version or "",
    }
    for job, url in (("sglang", urlsplit(worker.url)), ("pd-worker", _own_port(worker))):
        if url is not None:
            labels = {"job": job, "__scheme__": url.scheme, **about}
            yield {"targets": [url.netloc], "labels": {k: v for k, v in labels.items() if v}}


def _own_port(worker: Worker) -> SplitResult | None:
    """Where pd-worker tells of its engine; None without one, or where that can be no target.

    Another host's loopback is none: scraped, it would be a port of Prometheus' own host.
    """
    try:
        url = urlsplit(worker.control_url or "")
        usable = url.scheme in ("http", "https") and url.hostname and url.port
    except ValueError:
        return None
    if not usable or (_is_loopback(url.hostname) and not _is_loopback(worker.host)):
        return None
    return url


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


ROUTES = [web.get("/sd/prometheus", targets)]
