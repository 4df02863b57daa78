"""From an order to its answer: attempt after attempt until one works, or none will."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from proxy.clock import Clock, Sleep
from proxy.errors import PdError
from proxy.flow.admission import Admission
from proxy.flow.avoid import Avoid
from proxy.flow.continuation.telling import Mode, Narrator, Telling
from proxy.flow.continuation.tokenizer_file import Named, TokenizerFiles
from proxy.flow.continuation.tokenizers import Tokenizers
from proxy.flow.errand import Errand
from proxy.flow.farewell import as_failure
from proxy.flow.logprobs import merge_prompt_logprobs
from proxy.flow.poison import has_killed, poisonous
from proxy.flow.recipient import Amend, Recipient
from proxy.flow.retrier import Retrier, RetrierRules
from proxy.flow.retry import Retry
from proxy.flow.rids import put_back
from proxy.flow.seating import Seating
from proxy.flow.trail import Trail
from proxy.flow.waits import Waits
from proxy.roster import Role
from proxy.routing.group import Group
from proxy.routing.ledger import Ledger
from proxy.routing.placement import Placement
from proxy.routing.pool import Pool
from proxy.telemetry.metrics import Metrics
from proxy.upstream.carriers import Carriers
from proxy.upstream.exchange import Exchange, Upstream
from proxy.upstream.exchange_rules import ExchangeRules
from proxy.upstream.inquiries import Inquiries
from proxy.upstream.order import Order
from proxy.upstream.outcome import Failure, Outcome
from proxy.upstream.splice import mint_room
from proxy.upstream.sweeper import Sweeper

_OK = Outcome.OK
_NEVER = float("inf")
_BROKE_OFF = frozenset([Outcome.TRUNCATED, Outcome.TRUNCATED_MIDSTREAM])
# why: hundreds of connections to a worker that dies end one after another, and only when all have
# can its death be told from one request that it has dropped.
_AFTERMATH_S = 0.02
_TOO_LARGE = Failure(
    Outcome.ENGINE_ERROR, "the answer is too large to be merged (setting limits.answer_bytes)"
)


@dataclass(frozen=True, slots=True)
class CarriageRules:
    """The bounds of all attempts at one order."""

    retrier: RetrierRules
    exchange: ExchangeRules
    logprobs_wait_s: float = 5.0
    """How long the first event waits for what only prefill knows."""
    deaths: int = 2
    """So many workers may die with a request in hand; then it is given up."""
    continuation: Mode = Mode.ON
    """Which broken streams are continued."""
    tokenizers: tuple[Named, ...] = ()
    """For models whose workers tell no token ids."""


@dataclass(frozen=True, slots=True)
class Means:
    """What every attempt works with."""

    pool: Pool
    admission: Admission
    carriers: Carriers
    inquiries: Inquiries
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
        self.retrier = Retrier(rules.retrier, means.rng, means.carriers.open_to, means.metrics)
        tokenizers = Tokenizers(means.inquiries, TokenizerFiles(rules.tokenizers))
        self._narrator = Narrator(
            rules.continuation, tokenizers, means.ledger, means.clock.monotonic, means.metrics.continued
        )
        self.live: dict[str, Exchange] = {}
        """Attempts by their rid."""
        self.waits = Waits(means.clock, means.loop)
        """Who waits for a place, or between two attempts."""
        self._seating = Seating(
            means.pool,
            means.admission,
            self.waits,
            means.clock,
            means.sleep,
            means.metrics.queue_wait,
            rules.retrier.longest_retry_after_s,
        )

    async def carry(
        self, order: Order, group: Group, recipient: Recipient, own_rid: str | list[str] | None, trail: Trail
    ) -> Failure | None:
        """Makes attempts until one has something for the recipient, then relays it.

        A stream that breaks off is continued by further attempts, each with an order of its own.

        Returns:
            None if the answer went well; else the failure. The recipient has been told of it
            only if its answer had begun.

        Raises:
            NoPair: nobody is there to serve it.
            Overloaded: no place was free in time.
        """
        errand = self._set_out(order, group, recipient, own_rid, trail)
        try:
            while await self._attempt(errand):
                pass
        except PdError as error:
            if errand.telling is None:
                raise
            errand.ends(as_failure(error))
        finally:
            if errand.telling is not None:
                errand.telling.close()
        return errand.result

    def _set_out(
        self, order: Order, group: Group, recipient: Recipient, own_rid: str | list[str] | None, trail: Trail
    ) -> Errand:
        upstream = self._upstream
        if order.patience is not None:
            upstream = replace(upstream, rules=order.patience.over(upstream.rules))
        total_s = upstream.rules.total_s
        deadline = _NEVER if total_s is None else trail.received_at + total_s
        self.retrier.budget.earn(self._means.sweeper.now)
        return Errand(order, group, recipient, own_rid, trail, upstream, deadline)

    async def _attempt(self, errand: Errand) -> bool:
        """Makes one attempt; says whether another is to follow."""
        errand.attempts += 1
        placement = self._place_at_once(errand) or await self._seating.place(
            errand.group, errand.avoid, errand.trail, errand.deadline
        )
        if isinstance(placement, Failure):
            return errand.ends(placement)
        exchange = self._begin(errand, placement)
        served = False
        try:
            if not exchange.send_at_once():
                await exchange.connect_and_send()
            failure = await exchange.verdict or exchange.prefill_failure
            if failure is None:
                self._proved(exchange, errand.trail)
                failure = await self._answer(errand, exchange)
                if failure is None:
                    self._decode_ended(exchange, None)
                    served = True
                    return errand.ends(None)
                if failure is _TOO_LARGE:
                    return errand.ends(failure)
            if exchange.aborted:
                failure = replace(failure, outcome=Outcome.ABORTED, status=499)
            self._failed(exchange, failure, errand.trail)
        finally:
            self.live.pop(exchange.rid, None)
            self._means.pool.withdraw(placement)
            exchange.close(served=served)
        return await self._again(errand, failure, placement)

    def _place_at_once(self, errand: Errand) -> Placement | None:
        """The common case: nothing has failed, and nobody has to be waited for."""
        if errand.avoid is not None or errand.trail.aborted:
            return None
        return self._means.admission.at_once(errand.group)

    async def _answer(self, errand: Errand, exchange: Exchange) -> Failure | None:
        """Gives the recipient what a good attempt has; the failure, if it broke off."""
        order, recipient = errand.order, errand.recipient
        if errand.telling is None and (order.keep_prefill or errand.own_rid is not None):
            recipient.amend_with(await self._amend(exchange, errand.own_rid))
        whole = exchange.whole()
        if whole is not None:
            recipient.whole(exchange.head(), whole)
            if recipient.behind():
                await recipient.caught_up()
            recipient.end()
            return None
        if not (exchange.head().event_stream or recipient.takes_oversize):
            return _TOO_LARGE
        if errand.telling is None:
            errand.telling = Telling(self._narrator, order, recipient, errand.trail.continued)
        return await errand.telling.relay(exchange)

    async def _again(self, errand: Errand, failure: Failure, placement: Placement) -> bool:
        """Gets ready for another attempt after one that failed; says whether there is to be one."""
        means, telling, trail = self._means, errand.telling, errand.trail
        if telling is not None:
            if telling.over:
                return errand.ends(failure)
            errand.deadline = _NEVER  # a stream that has begun has none
            if telling.progressed():
                errand.attempts = 1
                errand.deaths = 0
        if failure.outcome in _BROKE_OFF:
            await means.sleep(_AFTERMATH_S)
        if await has_killed(failure, placement, means.carriers.is_there):
            errand.deaths += 1
            if errand.deaths >= self._rules.deaths:
                return errand.ends(poisonous(failure, errand.deaths))
        if failure.outcome is Outcome.FIRST_TOKEN_TIMEOUT:
            errand.upstream = errand.upstream.patient()
        now = means.clock.monotonic()
        decision = self.retrier.after(failure, errand.attempts, placement, now, errand.deadline)
        if not isinstance(decision, Retry):
            return errand.ends(failure)
        means.metrics.retried(failure.outcome)
        if decision.counted:
            errand.avoid = errand.avoid or Avoid()
            errand.avoid.learn(failure, placement, now)
            delay_s = decision.delay_s
            cut_short = await self.waits.until(lambda: means.sleep(delay_s), trail, errand.deadline)
            if cut_short is not None:
                return errand.ends(cut_short)
        else:
            errand.attempts -= 1
            trail.attempts -= 1
        if telling is not None and telling.broke_off:
            onward = await telling.resume(errand.group, placement.edge[1], failure)
            if not isinstance(onward, Order):
                return errand.ends(onward)
            errand.order = onward
        return True

    def _begin(self, errand: Errand, placement: Placement) -> Exchange:
        means, trail = self._means, errand.trail
        rid, room = means.new_rid(), mint_room(means.rng)
        exchange = Exchange(errand.order, placement, room, rid, errand.upstream, trail.received_at)
        self.live[rid] = exchange
        trail.attempts += 1
        means.metrics.attempts += 1
        trail.prefill, trail.decode = placement.edge
        trail.rids.append(rid)
        trail.room = room
        if trail.admitted_at is None:
            trail.admitted_at = placement.chosen_at
        return exchange

    def _prefill_over(self, exchange: Exchange) -> None:
        """Notes the end of prefill's leg: the moment at which the KV transfer ended."""
        figures = self._means.metrics.worker(exchange.placement.prefill.worker)
        failure = exchange.prefill_failure
        took_s = self._means.clock.monotonic() - exchange.placement.chosen_at
        figures.leg_duration.observe(took_s)
        if failure is None:
            figures.kv_transfer.observe(took_s)
        figures.ended(_OK if failure is None else failure.outcome)

    def _proved(self, exchange: Exchange, trail: Trail) -> None:
        now = self._means.clock.monotonic()
        self._means.pool.worked(exchange.placement, now)
        if trail.first_token_at is None:
            trail.first_token_at = now

    def _failed(self, exchange: Exchange, failure: Failure, trail: Trail) -> None:
        trail.failures.append(failure)
        self._means.pool.settle(exchange.placement, failure.blamed, failure.settlement)
        if failure.outcome is Outcome.STALE_CONNECTION:
            self._means.carriers.distrust(exchange.placement.prefill.worker)
            self._means.carriers.distrust(exchange.placement.decode.worker)
        if failure.role is Role.DECODE:
            self._decode_ended(exchange, failure)

    def _decode_ended(self, exchange: Exchange, failure: Failure | None) -> None:
        placement = exchange.placement
        figures = self._means.metrics.worker(placement.decode.worker)
        figures.leg_duration.observe(self._means.clock.monotonic() - placement.chosen_at)
        figures.ended(_OK if failure is None else failure.outcome)

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
