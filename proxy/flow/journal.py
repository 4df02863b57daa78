"""The one place where a request's end becomes figures and a log line."""

from __future__ import annotations

from proxy.clock import Clock
from proxy.errors import PdError
from proxy.flow.request import Reply, Request, Route
from proxy.flow.trail import Trail
from proxy.telemetry import logs
from proxy.telemetry.metrics import Metrics
from proxy.upstream.outcome import Outcome


class Journal:
    """Writes down what became of each request."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._routes = {route: metrics.route(route.value) for route in Route}
        self._now = clock.monotonic

    def begun(self, request: Request) -> None:
        """A request is on its way."""
        self._routes[request.route].in_flight += 1

    def ended(self, request: Request, reply: Reply, trail: Trail) -> None:
        """It has ended, one way or the other."""
        now = self._now()
        figures = self._routes[request.route]
        figures.in_flight -= 1
        figures.duration.observe(now - trail.received_at)
        if trail.first_token_at is not None:
            figures.ttft.observe(trail.first_token_at - trail.received_at)
        # A client that left before its answer began has no status; 499 is nginx's for it.
        status = reply.status or 499
        figures.ended(status, trail.outcome.value)
        if logs.requests_enabled():
            logs.request_line(
                request_id=request.request_id,
                route=request.route.value,
                status=status,
                outcome=trail.outcome.value,
                prefill=trail.prefill,
                decode=trail.decode,
                rid=trail.rid,
                room=trail.room,
                attempts=trail.attempts,
                stream=request.intake.stream,
                queue_ms=_ms(trail.received_at, trail.admitted_at),
                ttft_ms=_ms(trail.received_at, trail.first_token_at),
                duration_ms=_ms(trail.received_at, now),
                bytes_in=len(request.body),
                bytes_out=reply.bytes_out,
                failures=[f"{failure.outcome.value}: {failure.message[:200]}" for failure in trail.failures],
            )

    def refused(
        self, route: Route, request_id: str, reply: Reply, error: PdError, received_at: float
    ) -> None:
        """The door has refused it."""
        now = self._now()
        figures = self._routes[route]
        figures.duration.observe(now - received_at)
        figures.ended(reply.status, Outcome.BAD_REQUEST.value)
        if logs.requests_enabled():
            logs.request_line(
                request_id=request_id,
                route=route.value,
                status=reply.status,
                outcome=Outcome.BAD_REQUEST.value,
                duration_ms=_ms(received_at, now),
                failures=[error.message],
            )


def _ms(since: float, until: float | None) -> float | None:
    return None if until is None else round((until - since) * 1e3, 3)
