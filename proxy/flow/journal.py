"""The one place where a request's end becomes figures and a log line."""

from __future__ import annotations

from proxy.clock import Clock
from proxy.errors import PdError
from proxy.flow.request import Reply, Request, Route
from proxy.flow.trail import Trail
from proxy.telemetry.logs import RequestLine, RequestLog
from proxy.telemetry.metrics import Metrics, RouteMetrics
from proxy.upstream.outcome import Outcome

_CLIENT_CLOSED_REQUEST = 499  # nginx's word for a client that left before its answer began


class Journal:
    """Writes down what became of each request."""

    def __init__(self, metrics: Metrics, request_log: RequestLog, clock: Clock) -> None:
        self._figures = {route: metrics.route(route.value) for route in Route}
        self._log = request_log
        self._now = clock.monotonic

    def begun(self, request: Request) -> RouteMetrics:
        """A request is on its way; the figures of its route."""
        figures = self._figures[request.route]
        figures.in_flight += 1
        figures.body_bytes.observe(len(request.body))
        return figures

    def ended(self, request: Request, reply: Reply, trail: Trail) -> None:
        """It has ended, one way or the other."""
        now = self._now()
        figures = self._figures[request.route]
        figures.in_flight -= 1
        figures.duration.observe(now - trail.received_at)
        if trail.first_token_at is not None and request.intake.stream:
            figures.ttft.observe(trail.first_token_at - trail.received_at)
        status = reply.status or _CLIENT_CLOSED_REQUEST
        figures.ended(status, trail.outcome)
        if self._log.enabled:
            self._log.write(
                RequestLine(
                    request_id=request.request_id,
                    route=request.route.value,
                    method="POST",
                    status=status,
                    outcome=trail.outcome.value,
                    duration_ms=_ms(now - trail.received_at),
                    stream=request.intake.stream,
                    attempts=trail.attempts,
                    prefill=trail.prefill,
                    decode=trail.decode,
                    rids=trail.rids,
                    continued=trail.continued,
                    room=trail.room,
                    queue_ms=_since(trail.received_at, trail.admitted_at),
                    ttft_ms=_since(trail.received_at, trail.first_token_at),
                    bytes_in=len(request.body),
                    bytes_out=reply.bytes_out,
                    error=trail.told,
                )
            )

    def refused(
        self, route: Route, request_id: str, reply: Reply, error: PdError, received_at: float
    ) -> None:
        """The door has refused it."""
        now = self._now()
        figures = self._figures[route]
        figures.duration.observe(now - received_at)
        figures.ended(reply.status, Outcome.BAD_REQUEST.value)
        if self._log.enabled:
            self._log.write(
                RequestLine(
                    request_id=request_id,
                    route=route.value,
                    method="POST",
                    status=reply.status,
                    outcome=Outcome.BAD_REQUEST.value,
                    duration_ms=_ms(now - received_at),
                    error=error.message,
                )
            )


def _ms(duration_s: float) -> float:
    return round(duration_s * 1e3, 3)


def _since(start: float, moment: float | None) -> float | None:
    return None if moment is None else _ms(moment - start)
