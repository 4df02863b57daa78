"""Errors that only the control routes know."""

from __future__ import annotations

from proxy.errors import BadRequest


class Forbidden(BadRequest):
    """The route is not for this peer, whatever it sends."""

    status = 403
    code = "forbidden"


class NotFound(BadRequest):
    """No such route, or no such worker."""

    status = 404
    code = "not_found"


class MethodNotAllowed(BadRequest):
    """The route exists, but not for this method."""

    status = 405
    code = "method_not_allowed"


class Conflict(BadRequest):
    """Somebody else owns what the request would change."""

    status = 409
    code = "conflict"
