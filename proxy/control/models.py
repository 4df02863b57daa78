"""Which models are served, and what a decode says of its own."""

from __future__ import annotations

from aiohttp import web

from proxy.control.answers import json_answer
from proxy.control.asking import first_answer, fit_first
from proxy.control.deps import ControlDeps, deps_of
from proxy.control.redact import redacted
from proxy.errors import PdError, UpstreamFailure
from proxy.roster import Role, Worker


async def models(request: web.Request) -> web.Response:
    """All models, as the decodes list them; the registry's names where they do not."""
    return json_answer({"object": "list", "data": list((await _cards(deps_of(request))).values())})


async def model(request: web.Request) -> web.Response:
    """One model's card."""
    deps = deps_of(request)
    name = request.match_info["model"]
    card = (await _cards(deps)).get(name)
    if card is None:
        deps.pool.group_for(name)  # its error lists what is served
        card = _card(deps, name)
    return json_answer(card)


async def model_info(request: web.Request) -> web.Response:
    """A decode's own answer, of the model that `?model=` names where several are served."""
    deps = deps_of(request)
    decodes = fit_first(deps, Role.DECODE, request.query.get("model"))
    answer = await first_answer(deps, decodes, ("/model_info", "/get_model_info"))
    value = answer.json()
    if value is None:
        raise UpstreamFailure("the decode's answer is not JSON")
    return json_answer(redacted(value))


async def _cards(deps: ControlDeps) -> dict[str, object]:
    """Cards by model name, in the order in which they were met."""
    # One decode a model is asked: a fleet of 256 says the same 256 times.
    asked: dict[str | None, Worker] = {}
    for worker in fit_first(deps, Role.DECODE):
        asked.setdefault(worker.model, worker)

    async def question(worker: Worker) -> dict[str, object]:
        return await deps.inquiries.get_json(worker, "/v1/models", deps.inquiry_s)

    cards: dict[str, object] = {}
    for worker, answer in await deps.inquiries.fan_out(asked.values(), question):
        data = None if isinstance(answer, PdError) else answer.get("data")
        for item in data if isinstance(data, list) else ():
            if isinstance(item, dict) and isinstance(item.get("id"), str):
                cards.setdefault(item["id"], item)
        if worker.model is not None:
            cards.setdefault(worker.model, _card(deps, worker.model))
    for name in deps.pool.models:
        cards.setdefault(name, _card(deps, name))
    return cards


def _card(deps: ControlDeps, name: str) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": int(deps.started_at),
        "owned_by": "sglang",
        "root": name,
    }


ROUTES = [
    web.get("/v1/models", models),
    web.get("/v1/models/{model:.+}", model),
    web.get("/get_model_info", model_info),
    web.get("/model_info", model_info),
]
