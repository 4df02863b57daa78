"""The control plane as one aiohttp application: everything that is no data route."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from aiohttp import web

from proxy.control import (
    abort,
    discovery_http,
    fanout,
    health,
    loads,
    metrics,
    models,
    server_info,
    workers,
)
from proxy.control.answers import json_answer
from proxy.control.deps import DEPS, ControlDeps, deps_of
from proxy.control.guard import outermost
from proxy.control.refusals import MethodNotAllowed

__all__ = ["DATA_PATHS", "ControlDeps", "build_application", "build_metrics_application"]

DATA_PATHS = ("/generate", "/v1/chat/completions", "/v1/completions")
"""Served by the data path when POSTed; what reaches this application with such a path was not."""

_GROUPS = (health, models, server_info, workers, fanout, loads, abort, metrics, discovery_http)


def build_application(deps: ControlDeps) -> web.Application:
    """All control routes."""
    routes = [route for group in _GROUPS for route in group.ROUTES]
    routes += [web.get("/", _greeting), *(web.post(path, _misplaced) for path in DATA_PATHS)]
    return _build(deps, routes)


def build_metrics_application(deps: ControlDeps) -> web.Application:
    """What a metrics port of its own serves."""
    return _build(deps, [*metrics.ROUTES, *discovery_http.ROUTES, web.get("/health", health.alive)])


def _build(deps: ControlDeps, routes: Iterable[web.RouteDef]) -> web.Application:
    application = web.Application(middlewares=[outermost], client_max_size=deps.max_body_bytes)
    application[DEPS] = deps
    application.add_routes(routes)
    for path in {resource.canonical for resource in application.router.resources()}:
        if "{" not in path:
            application.router.add_route("OPTIONS", path, _options)
    return application


async def _greeting(request: web.Request) -> web.Response:
    paths = sorted({resource.canonical for resource in request.app.router.resources()})
    return json_answer({"name": "pd-proxy", "version": deps_of(request).version, "routes": paths})


async def _options(request: web.Request) -> web.Response:
    """Which methods the path takes."""
    path = request.path
    methods = {
        route.method
        for resource in request.app.router.resources()
        if resource.canonical == path
        for route in resource
    }
    return web.Response(status=204, headers={"Allow": ", ".join(sorted(methods))})


async def _misplaced(request: web.Request) -> NoReturn:
    # Only reached by a data request pipelined behind a control request on one connection.
    raise MethodNotAllowed(f"POST {request.path} behind another request: send it on a connection of its own")
