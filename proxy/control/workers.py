"""The workers: list, add, show, change, take away; in the shapes of sglang-router 0.3.2.

Only workers that were added here or by settings can be changed here: the registry's belong to whoever
registered them, and its next word would undo the change.
"""

from __future__ import annotations

from collections import Counter
from urllib.parse import quote

from aiohttp import web

from proxy.control.answers import json_answer, json_object
from proxy.control.deps import ControlDeps, deps_of
from proxy.control.guard import admin
from proxy.control.refusals import Conflict, NotFound
from proxy.control.worker_orders import changed, new_worker, read_order
from proxy.control.worker_view import partners, worker_view
from proxy.errors import BadRequest
from proxy.roster import Change, Origin, Role, Worker
from proxy.routing.member import Member


async def listed(request: web.Request) -> web.Response:
    """All workers, as we see them."""
    deps = deps_of(request)
    members = list(deps.pool.members())
    roles = Counter(member.worker.role for member in members)
    return json_answer(
        {
            "workers": _views(deps, members),
            "total": len(members),
            "stats": {f"{role.value}_count": roles[role] for role in Role},
        }
    )


def _views(deps: ControlDeps, members: list[Member]) -> list[dict[str, object]]:
    benched_with, now = partners(deps.pool.benched_edges()), deps.clock.monotonic()
    return [worker_view(member, benched_with, now) for member in members]


async def urls(request: web.Request) -> web.Response:
    """The older routers' list: addresses only."""
    return json_answer({"urls": [member.worker.url for member in deps_of(request).pool.members()]})


async def shown(request: web.Request) -> web.Response:
    """One worker."""
    deps = deps_of(request)
    [view] = _views(deps, [_named(deps, request.match_info["worker_id"])])
    return json_answer(view)


@admin
async def added(request: web.Request) -> web.Response:
    """Adds a worker; one of the same id is replaced."""
    worker = new_worker(read_order(await json_object(request)))
    return _add(deps_of(request), worker)


@admin
async def added_by_query(request: web.Request) -> web.Response:
    """The older routers' way: everything in the query."""
    order: dict[str, object] = dict(request.query)
    port = order.get("bootstrap_port")
    if isinstance(port, str) and port.isdecimal():
        order["bootstrap_port"] = int(port)
    return _add(deps_of(request), new_worker(read_order(order)))


@admin
async def updated(request: web.Request) -> web.Response:
    """Changes what the body names, and leaves the rest: `{"state": "draining"}` takes it out of service."""
    deps = deps_of(request)
    member = _ours(deps, request.match_info["worker_id"])
    order = read_order(await json_object(request))
    if order.worker_id not in (None, member.worker.worker_id):
        raise BadRequest("worker_id cannot change; add another worker", param="worker_id")
    worker = changed(member.worker, order)
    deps.pool.apply([Change(worker.worker_id, worker)])
    return _accepted(worker, "Worker updated")


@admin
async def removed(request: web.Request) -> web.Response:
    """Takes a worker away; its requests in flight finish."""
    return _remove(deps_of(request), request.match_info["worker_id"])


@admin
async def removed_by_query(request: web.Request) -> web.Response:
    """The older routers' way: `?url=`."""
    return _remove(deps_of(request), request.query.get("url", ""))


def _add(deps: ControlDeps, worker: Worker) -> web.Response:
    old = deps.pool.get(worker.worker_id)
    if old is not None:
        _check_ours(old.worker)
    same_url = [m.worker for m in deps.pool.members() if m.worker.url == worker.url]
    for other in same_url:
        if other.worker_id != worker.worker_id:
            raise Conflict(f"{worker.url} is already known as {other.worker_id}; DELETE that one first")
    deps.pool.apply([Change(worker.worker_id, worker)])
    return _accepted(worker, "Worker added")


def _remove(deps: ControlDeps, name: str) -> web.Response:
    worker = _ours(deps, name).worker
    deps.pool.apply([Change(worker.worker_id, None)])
    return _accepted(worker, "Worker removed")


def _named(deps: ControlDeps, name: str) -> Member:
    """By id or, as sglang-router's users have it, by url."""
    member = deps.pool.get(name)
    if member is None:
        member = next((m for m in deps.pool.members() if m.worker.url == name.rstrip("/")), None)
    if member is None:
        raise NotFound(f"no worker {name!r} is known; GET /workers lists them")
    return member


def _ours(deps: ControlDeps, name: str) -> Member:
    member = _named(deps, name)
    _check_ours(member.worker)
    return member


def _check_ours(worker: Worker) -> None:
    if worker.origin not in (Origin.API, Origin.STATIC):
        raise Conflict(
            f"{worker.worker_id} comes from the {worker.origin.value}: change it there "
            "(its wrapper's own registration, or an operator's wish)"
        )


def _accepted(worker: Worker, message: str) -> web.Response:
    location = f"/workers/{quote(worker.worker_id, safe='')}"
    body = {
        "status": "accepted",
        "worker_id": worker.worker_id,
        "url": worker.url,
        "location": location,
        "message": message,
    }
    return json_answer(body, 202, {"Location": location})


ROUTES = [
    web.get("/workers", listed),
    web.post("/workers", added),
    web.get("/workers/{worker_id:.+}", shown),
    web.put("/workers/{worker_id:.+}", updated),
    web.delete("/workers/{worker_id:.+}", removed),
    web.get("/list_workers", urls),
    web.post("/add_worker", added_by_query),
    web.post("/remove_worker", removed_by_query),
]
