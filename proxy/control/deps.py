"""What the control routes work with; the composition root fills it in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from proxy.clock import Clock
from proxy.roster import Worker
from proxy.routing.pool import Pool
from proxy.upstream.inquiries import Inquiries


@dataclass(frozen=True, slots=True)
class ControlDeps:
    """Everything that the control plane may see or touch."""

    pool: Pool
    inquiries: Inquiries
    clock: Clock
    metrics_exposition: Callable[[str | None], tuple[bytes, str]]
    """Accept header -> (body, content type) of /metrics."""
    readiness: Callable[[], str | None]
    """None when a request could be served now, else why not."""
    abort_rid: Callable[[str], Awaitable[int]]
    """Aborts, on both legs, what a client started under its own rid, or everything for an empty one.

    Answers how many requests that was.
    """
    version: str
    started_at: float
    """Seconds since the epoch."""
    admin_key: str | None = None
    api_key: str | None = None
    own_addresses: tuple[str, ...] = ()
    """host:port under which Prometheus finds this proxy's metrics."""
    max_body_bytes: int = 1024 * 1024
    inquiry_s: float = 10.0
    """For one question to one worker."""
    generate_s: float = 30.0
    """For the one token of /health_generate; SGLang's own takes up to 20 s."""


DEPS: web.AppKey[ControlDeps] = web.AppKey("deps", ControlDeps)


def deps_of(request: web.Request) -> ControlDeps:
    """The dependencies of the application that serves `request`."""
    return request.app[DEPS]


def workers_of(deps: ControlDeps) -> list[Worker]:
    """Every worker known, whatever its state."""
    return [member.worker for member in deps.pool.members()]
