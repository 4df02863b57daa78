"""JSON in and out of the control routes."""

from __future__ import annotations

import msgspec
from aiohttp import web

from proxy import faults
from proxy.errors import BadRequest, PdError


def json_answer(value: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """`value` as JSON."""
    return web.Response(
        body=msgspec.json.encode(value), status=status, headers=headers, content_type="application/json"
    )


def error_answer(error: PdError, headers: dict[str, str] | None = None) -> web.Response:
    """The OpenAI-shaped answer that tells of `error`."""
    return web.Response(
        body=faults.body(error),
        status=error.status,
        headers={**dict(faults.headers(error)), **(headers or {})},
        content_type="application/json",
    )


async def json_object(request: web.Request) -> dict[str, object]:
    """The request's body; an empty one is an empty object.

    Raises:
        BadRequest: the body is not a JSON object.
    """
    raw = await request.read()
    if not raw:
        return {}
    try:
        value: object = msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadRequest("the body is not a JSON object")
    return value
