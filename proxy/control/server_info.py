"""What the servers say of themselves, in the shape that SGLang's bench_serving reads from its mini_lb."""

from __future__ import annotations

from aiohttp import web

from proxy.control.answers import json_answer
from proxy.control.asking import ask_either
from proxy.control.deps import deps_of, workers_of
from proxy.control.redact import redacted
from proxy.errors import PdError
from proxy.roster import Role, Worker


async def server_info(request: web.Request) -> web.Response:
    """Every worker's arguments, secrets redacted, and the decodes' internal states."""
    deps = deps_of(request)

    async def question(worker: Worker) -> dict[str, object]:
        value = (await ask_either(deps, worker, ("/server_info", "/get_server_info"))).json()
        return value if isinstance(value, dict) else {}

    told: dict[Role, list[object]] = {Role.PREFILL: [], Role.DECODE: []}
    states: list[object] = []
    for worker, info in await deps.inquiries.fan_out(workers_of(deps), question):
        if worker.role not in told:
            continue
        if isinstance(info, PdError):
            told[worker.role].append({"url": worker.url, "error": info.message})
            continue
        told[worker.role].append(redacted({"url": worker.url, **info}))
        internal = info.get("internal_states")
        if worker.role is Role.DECODE and isinstance(internal, list):
            states.extend(redacted(state) for state in internal)
    return json_answer(
        {
            "internal_states": states,
            "prefill": told[Role.PREFILL],
            "decode": told[Role.DECODE],
            "proxy": {"version": deps.version, "started_at": deps.started_at},
        }
    )


ROUTES = [web.get("/get_server_info", server_info), web.get("/server_info", server_info)]
