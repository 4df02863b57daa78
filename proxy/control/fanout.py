"""Orders to every worker at once."""

from __future__ import annotations

from aiohttp import web

from proxy.control.answers import json_answer, json_object
from proxy.control.deps import deps_of, workers_of
from proxy.control.guard import admin
from proxy.errors import NoPair, PdError
from proxy.roster import Worker
from proxy.upstream.inquiries import Answer


@admin
async def to_all(request: web.Request) -> web.Response:
    """Passes the order on to every worker and tells what each said.

    200 if all obeyed, 502 if any did not: a client that looks at nothing but the status (bench_serving,
    curl -f) must not take half a flush for a flush.
    """
    deps = deps_of(request)
    body = await json_object(request)
    query = dict(request.query)

    async def order(worker: Worker) -> Answer:
        return await deps.inquiries.ask(
            worker, "POST", request.path, deps.inquiry_s, body=body or None, query=query
        )

    workers = workers_of(deps)
    if not workers:
        raise NoPair("no worker is known", retry_after_s=2)
    answers = await deps.inquiries.fan_out(workers, order)
    done = sum(isinstance(answer, Answer) and answer.ok for _, answer in answers)
    return json_answer(
        {
            "success": done == len(answers),
            "message": f"{done} of {len(answers)} workers did {request.path}",
            "workers": [_result(worker, answer) for worker, answer in answers],
        },
        200 if done == len(answers) else 502,
    )


def _result(worker: Worker, answer: Answer | PdError) -> dict[str, object]:
    result: dict[str, object] = {"worker_id": worker.worker_id, "url": worker.url, "role": worker.role}
    if isinstance(answer, PdError):
        return {**result, "ok": False, "status": None, "message": answer.message}
    said = answer.body[:500].decode("utf-8", "replace")
    return {**result, "ok": answer.ok, "status": answer.status, "message": said}


ROUTES = [
    web.route(method, path, to_all)
    for path in ("/flush_cache", "/start_profile", "/stop_profile")
    for method in ("POST", "GET")
]
