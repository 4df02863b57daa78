"""The data routes, found from the first bytes of a request."""

from __future__ import annotations

from proxy.flow.request import Route

DATA_ROUTES = {
    b"/generate": Route.GENERATE,
    b"/v1/chat/completions": Route.CHAT_COMPLETIONS,
    b"/v1/completions": Route.COMPLETIONS,
}
_FIRST_LINES = tuple(((b"POST %b " % path, b"POST %b?" % path), route) for path, route in DATA_ROUTES.items())


def data_route(data: bytes) -> Route | None:
    """The data route that a request's first line names, or None."""
    for starts, route in _FIRST_LINES:
        if data.startswith(starts):
            return route
    return None
