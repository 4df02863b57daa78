"""From an order to its answer: attempt after attempt until one works, or none will."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from proxy.clock import Clock, Sleep
from proxy.flow.admission import Admission
from proxy.flow.logprobs import merge_prompt_logprobs
from proxy.flow.recipient import Amend, Recipient
from proxy.flow.retry import Retry, RetryRules, decide
from proxy.flow.rids import put_back
from proxy.flow.trail import Trail
from proxy.roster import Role
from proxy.routing.breaker import Settlement
from proxy.routing.group import Group
from proxy.routing.ledger import Ledger
from proxy.routing.member import Member
from proxy.routing.placement import Placement
from proxy.routing.pool import Edge, Pool
from proxy.telemetry.metrics import Metrics, WorkerMetrics
from proxy.upstream.carriers import Carriers
from proxy.upstream.exchange import Exchange, ExchangeRules, Upstream
from proxy.upstream.order import Order
from proxy.upstream.outcome import Failure, Outcome
from proxy.upstream.splice import mint_room
from proxy.upstream.sweeper import Sweeper

_OK = Outcome.OK


@dataclass(frozen=True, slots=True)
class CarriageRules:
    """The bounds of all attempts at one order."""

    retry: RetryRules
    exchange: ExchangeRules
    logprobs_wait_s: float = 5.0
    """How long the first event waits for what only prefill knows."""


@dataclass(frozen=True, slots=True)
class Means:
    """What every attempt works with."""

    pool: Pool
    admission: Admission
    carriers: Carriers
    sweeper: Sweeper
    ledger: Ledger
    metrics: Metrics
    clock: Clock
    sleep: Sleep
    rng: random.Random
    new_rid: Callable[[], str]
    """Makes an attempt's request id, 32 hex digits."""
    loop: asyncio.AbstractEventLoop


class Carriage:
    """Carries orders; knows every attempt that is on its way."""

    def __init__(self, rules: CarriageRules, means: Means) -> None:
        self._rules = rules
        self._means = means
        self._upstream = Upstream(
            means.carriers, means.sweeper, means.ledger, rules.exchange, means.loop, self._prefill_over
        )
        self.live: dict[str, Exchange] = {}
        """Attempts by their rid."""

    async def carry(
        self, order: Order, group: Group, recipient: Recipient, own_rid: str | list[str] | None, trail: Trail
    ) -> Failure | None:
        """Makes attempts until one has something for the recipient, then relays it.

        Returns:
            None if the answer went well; else the failure. The recipient has been told of it
            only if its answer had begun.

        Raises:
            NoPair: nobody is there to serve it.
            Overloaded: no place was free in time.
        """
        avoid: set[Edge] = set()
        attempts = 0
        while True:
            attempts += 1
            placement = self._means.admission.at_once(group, avoid) or await self._queue(group, avoid)
            exchange = self._begin(order, placement, trail)
            served = False
            try:
                await exchange.dispatch()
                failure = await exchange.verdict or exchange.prefill_failure
                if failure is None:
                    self._proved(exchange, trail)
                    if order.keep_prefill or own_rid is not None:
                        recipient.amend_with(await self._amend(exchange, own_rid))
                    whole = exchange.whole
                    if whole is None:
                        failure = await self._relay(exchange, recipient)
                    else:
                        recipient.whole(exchange.head, whole)
                        self._decode_ended(exchange, None)
                        if recipient.behind:
                            await recipient.caught_up()
                        recipient.end()
                    served = failure is None
                    return failure
                if exchange.aborted:
                    failure = replace(failure, outcome=Outcome.ABORTED)
                self._failed(exchange, failure, trail)
            finally:
                self.live.pop(exchange.rid, None)
                self._means.pool.withdraw(placement)
                exchange.close(served=served)
            decision = decide(failure, attempts, self._rules.retry, self._means.rng)
            if not isinstance(decision, Retry):
                return failure
            self._means.metrics.retried(failure.outcome)
            if decision.counted:
                avoid.add(exchange.placement.edge)
                await self._means.sleep(decision.delay_s)
            else:
                attempts -= 1

    async def _queue(self, group: Group, avoid: set[Edge]) -> Placement:
        now, metrics = self._means.clock.monotonic, self._means.metrics
        came_at = now()
        try:
            return await self._means.admission.wait(group, avoid)
        finally:
            metrics.queue_wait.observe(now() - came_at)

    def _begin(self, order: Order, placement: Placement, trail: Trail) -> Exchange:
        means = self._means
        now = means.clock.monotonic()
        rid = means.new_rid()
        exchange = Exchange(
            order,
            placement,
            mint_room(means.rng.getrandbits(62)),
            rid,
            self._upstream,
            trail.received_at,
            now,
        )
        self.live[rid] = exchange
        trail.attempts += 1
        means.metrics.attempts += 1
        trail.prefill, trail.decode = placement.edge
        trail.rids.append(rid)
        trail.room = exchange.room
        if trail.admitted_at is None:
            trail.admitted_at = now
        return exchange

    def _prefill_over(self, exchange: Exchange) -> None:
        """Notes the end of prefill's leg: the moment at which the KV transfer ended."""
        figures = self._figures(exchange.placement.prefill)
        failure = exchange.prefill_failure
        took_s = self._means.clock.monotonic() - exchange.dispatched_at
        figures.leg_duration.observe(took_s)
        if failure is None:
            figures.kv_transfer.observe(took_s)
        figures.ended(_OK if failure is None else failure.outcome)

    def _figures(self, member: Member) -> WorkerMetrics:
        worker = member.worker
        return self._means.metrics.worker(worker.worker_id, worker.role)

    def _proved(self, exchange: Exchange, trail: Trail) -> None:
        self._means.pool.settle(exchange.placement, None, Settlement.SUCCESS)
        if trail.first_token_at is None:
            trail.first_token_at = self._means.clock.monotonic()

    def _failed(self, exchange: Exchange, failure: Failure, trail: Trail) -> None:
        trail.failures.append(failure)
        settlement = Settlement.IGNORED if failure.proves_nothing else Settlement.FAILURE
        self._means.pool.settle(exchange.placement, failure.blamed, settlement)
        if failure.outcome is Outcome.STALE_CONNECTION:
            self._means.carriers.distrust(exchange.placement.prefill.worker)
            self._means.carriers.distrust(exchange.placement.decode.worker)
        if failure.role is Role.DECODE:
            self._decode_ended(exchange, failure)

    def _decode_ended(self, exchange: Exchange, failure: Failure | None) -> None:
        figures = self._figures(exchange.placement.decode)
        figures.leg_duration.observe(self._means.clock.monotonic() - exchange.dispatched_at)
        figures.ended(_OK if failure is None else failure.outcome)

    async def _relay(self, exchange: Exchange, recipient: Recipient) -> Failure | None:
        head = exchange.head
        if not head.event_stream and not recipient.takes_oversize:
            return Failure(
                Outcome.ENGINE_ERROR, "the answer is too large to be merged (setting limits.answer_bytes)"
            )
        recipient.open(head, exchange.pause, exchange.resume)
        exchange.relay_to(recipient)
        failure = await exchange.over()
        self._decode_ended(exchange, failure)
        if failure is None:
            recipient.end()
        else:
            recipient.broken(failure)
        return failure

    async def _amend(self, exchange: Exchange, own_rid: str | list[str] | None) -> Amend | None:
        ids = put_back(exchange.rid, own_rid)
        order = exchange.order
        if not order.keep_prefill:
            return ids
        answer = await exchange.prefill_answer(self._rules.logprobs_wait_s)
        logprobs = merge_prompt_logprobs(answer, order.generate, order.stream) if answer else None
        if ids is None or logprobs is None:
            return ids or logprobs
        return lambda data: ids(logprobs(data))
