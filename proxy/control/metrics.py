"""What Prometheus scrapes."""

from __future__ import annotations

from aiohttp import web

from proxy.control.deps import deps_of


async def metrics(request: web.Request) -> web.Response:
    """The exposition, in the format that the Accept header asks for."""
    body, content_type = deps_of(request).metrics_exposition(request.headers.get("Accept"))
    return web.Response(body=body, headers={"Content-Type": content_type})


ROUTES = [web.get("/metrics", metrics)]
