"""One request from the door to its outcome: the outermost frame of its task."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import structlog

from proxy.errors import PdError
from proxy.flow.carriage import Carriage, Means
from proxy.flow.fanout import Merger, one_answer
from proxy.flow.farewell import as_error, as_events, as_failure, outcome_of
from proxy.flow.journal import Journal
from proxy.flow.recipient import Direct
from proxy.flow.request import Reply, Request, Route
from proxy.flow.trail import Trail
from proxy.routing.group import Group
from proxy.telemetry.histogram import Histogram
from proxy.upstream.exchange import Exchange
from proxy.upstream.order import Order
from proxy.upstream.outcome import Failure, Outcome

_Error = TypeVar("_Error", bound=Exception)
_OK, _GENERATE = Outcome.OK, Route.GENERATE  # why: an enum's members cost a look-up each
log = structlog.get_logger("proxy.flow")


class Corridor:
    """Serves requests; remembers which are on their way under a client's own rid."""

    def __init__(
        self,
        means: Means,
        carriage: Carriage,
        journal: Journal,
        report_attempts: bool,
        early_head_s: float | None,
    ) -> None:
        """Makes one.

        Args:
            means: what attempts work with.
            carriage: makes them.
            journal: writes down how requests end.
            report_attempts: whether answers carry X-PD-Attempts.
            early_head_s: when a streamed answer's head is sent at the latest; None: with its first token.
        """
        self._means = means
        self._carriage = carriage
        self._journal = journal
        self._report_attempts = report_attempts
        self._early_head_s = early_head_s
        self._own_rids: dict[str, list[Trail]] = {}
        self.in_flight = 0

    async def serve(self, request: Request, reply: Reply) -> None:
        """Serves one request to its end. Never raises, but for being cancelled."""
        trail = Trail(request.received_at)
        self.in_flight += 1
        itl = self._journal.begun(request).itl
        rid = request.intake.rid
        own = () if rid is None else _listed(rid)
        early = self._open_in_time(request, reply)
        for rid in own:
            self._own_rids.setdefault(rid, []).append(trail)
        try:
            failure = await self._carried(request, reply, itl, trail)
            if failure is None:
                trail.outcome = _OK
            else:
                trail.outcome = failure.outcome
                self._tell_failure(reply, failure, trail)
        except asyncio.CancelledError:
            trail.outcome = Outcome.CLIENT_GONE
            raise
        except PdError as error:
            trail.outcome, trail.refusal = outcome_of(error), error.message
            _tell(request, reply, error)
        except Exception:
            log.exception("a request failed by a fault of the proxy", request_id=request.request_id)
            trail.outcome = Outcome.INTERNAL
            _tell(request, reply, PdError("an internal error of the proxy; its log says more"))
        finally:
            if early is not None:
                early.cancel()
            self.in_flight -= 1
            for rid in own:
                self._forget(rid, trail)
            self._journal.ended(request, reply, trail)

    def _open_in_time(self, request: Request, reply: Reply) -> asyncio.TimerHandle | None:
        if self._early_head_s is None or not request.intake.stream:
            return None
        return self._means.loop.call_later(self._early_head_s, _open_early, reply)

    def refuse(self, route: Route, request_id: str, reply: Reply, error: PdError, received_at: float) -> None:
        """Answers a request that the door has found wanting."""
        reply.fail(error)
        self._journal.refused(route, request_id, reply, error, received_at)

    def abort(self, rid: str) -> int:
        """Ends requests: on their workers, in the queue, and between two attempts.

        Args:
            rid: a client's own, or one minted here; empty: everything that is here.

        Returns:
            How many attempts and waits have ended.
        """
        exchanges = list(self._exchanges_of(rid))
        for exchange in exchanges:
            exchange.abort()
        trails = self._own_rids.get(rid, ())
        for trail in trails:
            trail.aborted = True
        ended = {id(trail) for trail in trails}
        return len(exchanges) + self._carriage.waits.abort(lambda trail: not rid or id(trail) in ended)

    def _exchanges_of(self, rid: str) -> Iterator[Exchange]:
        if not rid:
            yield from tuple(self._carriage.live.values())
            return
        minted = {one for trail in self._own_rids.get(rid, ()) for one in trail.rids} | {rid}
        for one in minted:
            exchange = self._carriage.live.get(one)
            if exchange is not None:
                yield exchange

    def _forget(self, rid: str, trail: Trail) -> None:
        trails = self._own_rids[rid]
        trails.remove(trail)
        if not trails:
            del self._own_rids[rid]

    def _carried(
        self, request: Request, reply: Reply, itl: Histogram, trail: Trail
    ) -> Coroutine[Any, Any, Failure | None]:
        """What is to be awaited: one order's way to its answer, or as many as answers are asked for."""
        group = self._means.pool.group_for(request.model)
        told = trail if self._report_attempts else None
        if request.intake.n > 1:
            return self._fan_out(request, reply, group, itl, told, trail)
        order = _order(request, b"", raw=reply.takes_chunks)
        recipient = Direct(reply, as_events, itl, told)
        return self._carriage.carry(order, group, recipient, request.intake.rid, trail)

    def _tell_failure(self, reply: Reply, failure: Failure, trail: Trail) -> None:
        if reply.ended:
            return
        if reply.opened:
            _end_stream(reply, failure)
            return
        if self._report_attempts:
            reply.extra_headers += trail.attempts_line()
        _report(reply, failure, trail)

    async def _fan_out(
        self,
        request: Request,
        reply: Reply,
        group: Group,
        itl: Histogram,
        told: Trail | None,
        trail: Trail,
    ) -> Failure | None:
        generate = request.route is _GENERATE
        order = _order(request, one_answer(request.intake, generate), raw=False)
        merger = Merger(reply, request.intake.n, generate, itl, told)

        async def carry(number: int) -> None:
            failure = await self._carriage.carry(
                order, group, merger.branch(number), request.intake.rid, trail
            )
            if failure is not None:
                raise _BranchFailed(failure)

        failure: Failure | None = None
        error: PdError | None = None
        try:
            async with asyncio.TaskGroup() as branches:
                for number in range(request.intake.n):
                    branches.create_task(carry(number))
        except* _BranchFailed as failed:
            failure = _first(failed).failure
        except* PdError as failed:
            error = _first(failed)
        if error is not None:
            raise error  # not above: until Python 3.11.4 a group would come of it
        return failure


class _BranchFailed(Exception):
    """Ends the other branches."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def _open_early(reply: Reply) -> None:
    if not reply.opened:
        reply.open(b"HTTP/1.1 200 OK", b"Content-Type: text/event-stream\r\n")


def _report(reply: Reply, failure: Failure, trail: Trail) -> None:
    """Answers with a failure; nothing has been written yet."""
    if failure.outcome is Outcome.BAD_REQUEST and failure.body.startswith(b"{"):
        # The engine's own words, in its own form: its clients know them.
        status_line = b"HTTP/1.1 %d Bad Request" % failure.status
        reply.whole(status_line, b"Content-Type: application/json\r\n", failure.body)
        reply.end()
    else:
        reply.fail(as_error(failure, trail.attempts))


def _tell(request: Request, reply: Reply, error: PdError) -> None:
    """Tells of an error, however far the answer has come."""
    if not reply.opened:
        reply.fail(error)
    elif not reply.ended:
        if request.intake.stream:
            _end_stream(reply, as_failure(error))
        else:
            reply.break_off()


def _end_stream(reply: Reply, failure: Failure) -> None:
    reply.payload(as_events(failure))
    reply.end()


def _first(failed: ExceptionGroup[_Error]) -> _Error:
    first = failed.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first


def _listed(rid: str | list[str]) -> list[str]:
    return [rid] if isinstance(rid, str) else rid


def _order(request: Request, overrides: bytes, *, raw: bool) -> Order:
    intake = request.intake
    return Order(
        request_line=request.request_line,
        headers=request.headers,
        body=request.body,
        body_end=request.body.rfind(b"}"),
        overrides=overrides,
        generate=request.route is _GENERATE,
        stream=intake.stream,
        zero_ok=intake.zero_tokens,
        # Whoever changes an answer cannot keep the worker's chunks.
        raw=raw and intake.rid is None and not intake.wants_input_logprobs,
        keep_prefill=intake.wants_input_logprobs,
        patience=request.patience,
    )
