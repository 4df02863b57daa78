"""The worker's own port: how it stands, its figures, its plan, and one order: drain."""

from __future__ import annotations

import hmac
import ipaddress

from aiohttp import web

from proxy.roster import Role
from workers.announcer import Announcer
from workers.drain import Leaving
from workers.figures import Figures
from workers.supervisor import Phase, Supervisor

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Control:
    """The routes. Everybody may read; only loopback, or who has the key, may give the order."""

    def __init__(
        self,
        supervisor: Supervisor,
        announcer: Announcer,
        leaving: Leaving,
        figures: Figures,
        plan_text: str,
        role: Role,
        key: str | None,
    ) -> None:
        self._supervisor = supervisor
        self._announcer = announcer
        self._leaving = leaving
        self._figures = figures
        self._plan_text = plan_text
        self._role = role
        self._key = key

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=4096)
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/metrics", self._metrics),
                web.get("/plan", self._plan),
                web.post("/drain", self._drain),
            ]
        )
        return app

    async def _health(self, request: web.Request) -> web.Response:
        """200 while new requests are wanted; else 503, with the reason."""
        supervisor, announcer = self._supervisor, self._announcer
        ready = supervisor.phase is Phase.READY
        state: dict[str, object] = {
            "state": supervisor.phase,
            "role": self._role,
            "registered": announcer.registered if announcer.enabled else None,
            "restarts": supervisor.restarts.count,
            "engine_pid": supervisor.pid,
        }
        if supervisor.phase is Phase.STARTING:
            state["waiting_for"] = supervisor.stage
        if self._leaving.why is not None:
            state["leaving_because_of"] = self._leaving.why
        if supervisor.last_end:
            state["last_end"] = supervisor.last_end
        return web.json_response(state, status=200 if ready else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self._figures.render(), headers={"Content-Type": _METRICS_TYPE})

    async def _plan(self, request: web.Request) -> web.Response:
        return web.Response(text=self._plan_text)

    async def _drain(self, request: web.Request) -> web.Response:
        if not (_has_key(request, self._key) or _is_loopback(request)):
            how = "send 'Authorization: Bearer <key>'" if self._key else "to allow others, set --control-key"
            return web.json_response(
                {"error": {"message": f"only loopback may order a drain; {how}", "code": "forbidden"}},
                status=403,
            )
        self._leaving.begin("POST /drain")
        return web.json_response({"state": "draining"}, status=202)


def _has_key(request: web.Request, key: str | None) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if key is None or scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), key.encode())


def _is_loopback(request: web.Request) -> bool:
    """Whether the peer is this host, and no proxy on this host speaks for somebody else."""
    if any(name in request.headers for name in ("Forwarded", "X-Forwarded-For", "X-Real-IP")):
        return False
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    if not isinstance(peer, tuple) or not peer:
        return False
    address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
