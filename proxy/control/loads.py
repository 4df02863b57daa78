"""How busy the workers are, by their own word. A failed read is unknown, never zero."""

from __future__ import annotations

from aiohttp import web

from proxy.control.answers import json_answer
from proxy.control.deps import deps_of, workers_of
from proxy.errors import PdError, UpstreamFailure
from proxy.roster import Worker


async def loads(request: web.Request) -> web.Response:
    """Every worker's /v1/loads or, of an older one, /get_load, with our own count beside it."""
    deps = deps_of(request)
    query = dict(request.query)

    async def question(worker: Worker) -> object:
        answer = await deps.inquiries.ask(worker, "GET", "/v1/loads", deps.inquiry_s, query=query)
        if not answer.ok:
            answer = await deps.inquiries.ask(worker, "GET", "/get_load", deps.inquiry_s)
        value = answer.json() if answer.ok else None
        if value is None:
            raise UpstreamFailure(f"{worker.url} tells its load neither by /v1/loads nor by /get_load")
        return value

    told = []
    for worker, answer in await deps.inquiries.fan_out(workers_of(deps), question):
        failed = isinstance(answer, PdError)
        member = deps.pool.get(worker.worker_id)
        told.append(
            {
                "worker_id": worker.worker_id,
                "worker": worker.url,
                "worker_type": worker.role,
                "in_flight": None if member is None else member.in_flight,
                "load": None if failed else answer,
                "error": str(answer) if failed else None,
            }
        )
    return json_answer({"loads": told})


ROUTES = [web.get("/get_load", loads), web.get("/v1/loads", loads), web.get("/get_loads", loads)]
