"""Is the proxy alive, is it ready, does a pair generate."""

from __future__ import annotations

import asyncio
import secrets

from aiohttp import web

from proxy.control.answers import json_answer
from proxy.control.deps import ControlDeps, deps_of
from proxy.errors import Overloaded, UpstreamFailure
from proxy.roster import Worker
from proxy.routing.breaker import Settlement


async def alive(request: web.Request) -> web.Response:
    """200 for as long as the event loop turns; says nothing of the workers."""
    return web.Response(text="OK")


async def ready(request: web.Request) -> web.Response:
    """200 once a pair can serve a request, else 503 with the reason."""
    deps = deps_of(request)
    reason = deps.readiness()
    members = list(deps.pool.members())
    return json_answer(
        {
            "status": "ready" if reason is None else "not ready",
            "reason": reason,
            "healthy_workers": sum(member.standing_by is None for member in members),
            "total_workers": len(members),
        },
        200 if reason is None else 503,
    )


async def generates(request: web.Request) -> web.Response:
    """One token through a pair: the pools' own choice, or of the model that `?model=` names."""
    deps = deps_of(request)
    pool = deps.pool
    placement = pool.choose(pool.group_for(request.query.get("model")))
    if placement is None:
        raise Overloaded("every worker is at its cap of requests in flight", retry_after_s=1)
    prefill, decode = placement.prefill.worker, placement.decode.worker
    try:
        await _one_token(deps, prefill, decode)
    finally:
        # A synthetic request proves nothing that real traffic should be judged by.
        pool.settle(placement, None, Settlement.IGNORED)
        placement.release()
    return json_answer({"status": "ok", "prefill": prefill.worker_id, "decode": decode.worker_id})


async def _one_token(deps: ControlDeps, prefill: Worker, decode: Worker) -> None:
    body = {
        "input_ids": [1],
        "sampling_params": {"max_new_tokens": 1, "temperature": 0},
        "bootstrap_host": prefill.bootstrap_host or prefill.host,
        "bootstrap_port": prefill.bootstrap_port,
        "bootstrap_room": secrets.randbelow(2**62) + 1,
    }

    async def leg(worker: Worker) -> None:
        answer = await deps.inquiries.ask(worker, "POST", "/generate", deps.generate_s, body=body)
        if not answer.ok:
            said = answer.body[:200].decode("utf-8", "replace")
            raise UpstreamFailure(f"{worker.worker_id} answered {answer.status} to /generate: {said}")

    failure: UpstreamFailure | None = None
    try:
        # The first leg to fail ends the other, which would wait for its partner's KV in vain.
        async with asyncio.TaskGroup() as legs:
            legs.create_task(leg(prefill))
            legs.create_task(leg(decode))
    except* UpstreamFailure as failures:
        told = f"no token through {prefill.worker_id} -> {decode.worker_id}: {failures.exceptions[0]}"
        failure = UpstreamFailure(told)
    if failure is not None:
        raise failure  # not above: until Python 3.11.4 a group would come of it


ROUTES = [
    web.get("/health", alive),
    web.get("/liveness", alive),
    web.get("/readiness", ready),
    web.get("/health_generate", generates),
]
