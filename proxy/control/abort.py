"""Ends a client's own requests before their time."""

from __future__ import annotations

from aiohttp import web

from proxy.control.answers import json_answer, json_object
from proxy.control.deps import deps_of
from proxy.control.guard import admin
from proxy.errors import BadRequest


@admin
async def abort(request: web.Request) -> web.Response:
    """Aborts by the rid that the client itself gave; `abort_all` ends everything that runs here."""
    body = await json_object(request)
    rid, everything = body.get("rid"), body.get("abort_all", False)
    if not isinstance(everything, bool):
        raise BadRequest("abort_all is not true or false", param="abort_all")
    if not everything and (not isinstance(rid, str) or not rid):
        raise BadRequest("rid is not a text; to abort everything, say abort_all: true", param="rid")
    aborted = await deps_of(request).abort_rid("" if everything else str(rid))
    return json_answer({"aborted": aborted})


ROUTES = [web.post("/abort_request", abort)]
