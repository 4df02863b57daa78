"""Who may ask what: the outermost frame of every control route, and its only catch-all."""

from __future__ import annotations

import hmac
import ipaddress
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from proxy.control.answers import error_answer
from proxy.control.deps import ControlDeps, deps_of
from proxy.control.refusals import Forbidden, MethodNotAllowed, NotFound
from proxy.errors import BodyTooLarge, PdError, Unauthorized

_log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OPEN_PATHS = frozenset({"/", "/health", "/liveness", "/readiness", "/metrics", "/sd/prometheus"})
"""Never need the api key, as with SGLang itself: orchestrators and Prometheus have none."""


def admin(handler: Handler) -> Handler:
    """Marks a handler that changes something: loopback or the admin key only."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        _check_admin(request, deps_of(request))
        return await handler(request)

    return guarded


@web.middleware
async def outermost(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns every error into an answer, and closes the connection behind each.

    The connection was handed over from the data path; were it kept alive, a later data request on it
    would land here.
    """
    try:
        _check_key(request)
        response = await handler(request)
    except PdError as error:
        response = error_answer(error)
    except web.HTTPMethodNotAllowed as error:
        allow = ", ".join(sorted({*error.allowed_methods, "OPTIONS"}))
        wrong = MethodNotAllowed(f"{request.path} does not take {request.method}; it takes {allow}")
        response = error_answer(wrong, {"Allow": allow})
    except web.HTTPNotFound:
        response = error_answer(_unknown(request))
    except web.HTTPRequestEntityTooLarge:
        limit = deps_of(request).max_body_bytes
        response = error_answer(BodyTooLarge(f"the body of {request.path} is over {limit} bytes"))
    except web.HTTPException:
        raise
    except Exception:  # noqa: BLE001
        _log.exception("control route failed: %s %s", request.method, request.path)
        response = error_answer(PdError(f"internal error in {request.method} {request.path}; see the log"))
    response.force_close()
    return response


def _check_key(request: web.Request) -> None:
    deps = deps_of(request)
    if deps.api_key is None or request.path in OPEN_PATHS or request.method == "OPTIONS":
        return
    given = _bearer(request)
    if _same(given, deps.api_key) or _same(_admin_key(request), deps.admin_key):
        return
    raise Unauthorized(
        f"{request.path} needs the api key: send 'Authorization: Bearer <key>' (setting server.api_key)"
    )


def _check_admin(request: web.Request, deps: ControlDeps) -> None:
    if _same(_admin_key(request), deps.admin_key) or _is_loopback(request):
        return
    if deps.admin_key is None:
        raise Forbidden(
            f"{request.method} {request.path} changes something, so only loopback may call it; "
            "to allow others, set server.admin_key"
        )
    raise Unauthorized(
        f"{request.method} {request.path} needs the admin key: send 'X-Admin-Key: <key>' or "
        "'Authorization: Bearer <key>' (setting server.admin_key)"
    )


def _is_loopback(request: web.Request) -> bool:
    """Whether the peer is this host, and no proxy on this host speaks for somebody else."""
    if any(name in request.headers for name in ("Forwarded", "X-Forwarded-For", "X-Real-IP")):
        return False
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    if not isinstance(peer, tuple) or not peer:
        return False
    try:
        address = ipaddress.ip_address(peer[0].partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _bearer(request: web.Request) -> str:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _admin_key(request: web.Request) -> str:
    return request.headers.get("X-Admin-Key") or _bearer(request)


def _same(given: str, wanted: str | None) -> bool:
    """Compares in constant time, so that a key cannot be guessed letter by letter."""
    if not wanted:
        return False
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode())


def _unknown(request: web.Request) -> NotFound:
    listed = ", ".join(sorted({resource.canonical for resource in request.app.router.resources()}))
    return NotFound(f"there is no {request.path} here; there is: {listed}")
