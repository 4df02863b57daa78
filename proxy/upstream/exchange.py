"""One attempt on one pair: the same request to prefill and decode, and what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

from proxy.roster import Role, Worker
from proxy.routing.ledger import Ledger
from proxy.routing.placement import Placement
from proxy.upstream.carriers import Carriers, ConnectFailed
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.decode_leg import DecodeLeg, Sink
from proxy.upstream.exchange_rules import ExchangeRules
from proxy.upstream.framing import ResponseHead
from proxy.upstream.order import Order
from proxy.upstream.outcome import ABORTED, Failure, Outcome
from proxy.upstream.prefill_leg import PrefillLeg
from proxy.upstream.stuck import is_stuck
from proxy.upstream.sweeper import Sweeper


@dataclass(frozen=True, slots=True)
class Upstream:
    """What every exchange works with."""

    carriers: Carriers
    sweeper: Sweeper
    ledger: Ledger
    rules: ExchangeRules
    loop: asyncio.AbstractEventLoop
    on_prefill_over: Callable[[Exchange], None]
    """Called at the end of prefill's leg, unless the exchange was closed before."""

    def patient(self) -> Upstream:
        """The same for a request that has been taken for lost once."""
        return replace(self, rules=replace(self.rules, stuck_s=inf))


_LOOKS = 64
"""So often a stream is looked at within its limit: with thousands of them each look is felt."""
# An attempt's phase. Plain numbers: an enum's members cost a look-up each.
_WAITING, _RELAYING, _DRAINING, _CLOSED = range(4)


class Exchange:
    """Owns the two legs, and gives the placement back side by side as they end.

    Its life: `send_at_once`, perhaps `connect_and_send`, `verdict`; `relay_to` and `over` if it streams;
    `close` always.
    """

    __slots__ = (
        "_connecting",
        "_decode",
        "_look_at",
        "_over",
        "_phase",
        "_prefill",
        "_prefill_waiter",
        "_reads_seen",
        "_received_at",
        "_seen_at",
        "_started_at",
        "_upstream",
        "aborted",
        "order",
        "placement",
        "prefill_failure",
        "rid",
        "room",
        "verdict",
    )

    def __init__(
        self,
        order: Order,
        placement: Placement,
        room: int,
        rid: str,
        upstream: Upstream,
        received_at: float,
    ) -> None:
        sweeper = upstream.sweeper
        self.order = order
        self.placement = placement
        self.room = room
        self.rid = rid
        """32 hex digits, the same on both legs."""
        self.aborted = False
        """Whether /abort_request has hit it: what comes of that is no failure to retry."""
        self.prefill_failure: Failure | None = None
        """What prefill's leg told, also when it told it too late to matter."""
        self._upstream = upstream
        self._phase = _WAITING
        self._received_at = received_at
        self._started_at = self._seen_at = sweeper.now
        self._reads_seen = 0
        self._look_at = 0.0
        self._connecting: asyncio.Timeout | None = None
        self.verdict: asyncio.Future[Failure | None] = upstream.loop.create_future()
        """Done when the attempt has failed, or has something for the client (None)."""
        self._over: asyncio.Future[Failure | None] | None = None
        self._prefill_waiter: asyncio.Future[None] | None = None
        limit_bytes = upstream.rules.answer_bytes
        self._prefill = PrefillLeg(self, order, limit_bytes)
        self._decode = DecodeLeg(self, order, limit_bytes, upstream.ledger)
        sweeper.members.add(self)

    # --- what the request's task calls

    def send_at_once(self) -> bool:
        """Sends the request over idle connections, to prefill first; says whether both have it."""
        placement, carriers, order = self.placement, self._upstream.carriers, self.order
        prefill = placement.prefill.worker
        connection = carriers.reuse(prefill)
        if connection is None:
            return False
        rest = order.rest(prefill, self.room, self.rid)
        connection.send(self._prefill, order.request_line, rest)
        connection = carriers.reuse(placement.decode.worker)
        if connection is None:
            return False
        connection.send(self._decode, order.request_line, rest)
        return True

    async def connect_and_send(self) -> None:
        """Goes on where `send_at_once` could not; a failure to connect becomes the verdict."""
        prefill, decode, order = self.placement.prefill.worker, self.placement.decode.worker, self.order
        rest = order.rest(prefill, self.room, self.rid)
        if self._prefill.connection is None:
            connection = await self._connect(prefill)
            if connection is None:
                return
            connection.send(self._prefill, order.request_line, rest)
        connection = self._upstream.carriers.reuse(decode) or await self._connect(decode)
        if connection is not None:
            connection.send(self._decode, order.request_line, rest)

    async def _connect(self, worker: Worker) -> UpstreamConnection | None:
        try:
            async with asyncio.timeout(None) as limit:
                self._connecting = limit
                try:
                    connection = await self._upstream.carriers.connect(worker)
                finally:
                    self._connecting = None
        except TimeoutError:
            return None  # the verdict came first
        except ConnectFailed as error:
            self.judged(Failure(Outcome.CONNECT, error.message, 503, worker.role, retry_after_s=2))
            return None
        if self.verdict.done():
            connection.abort()
            return None
        return connection

    def head(self) -> ResponseHead:
        """Decode's response head; only after a good verdict."""
        assert self._decode.head is not None
        return self._decode.head

    def whole(self) -> bytes | None:
        """Decode's answer if all of it is here and it is no stream, else None."""
        return self._decode.whole() if self._decode.over and not self._decode.streaming else None

    def relay_to(self, sink: Sink) -> None:
        """From now on `sink` gets decode's answer, what has come so far first."""
        self._phase = _RELAYING
        self._seen_at = self._upstream.sweeper.now
        self._decode.relay_to(sink)

    async def over(self) -> Failure | None:
        """Waits until decode's answer has ended, or broken off (the failure)."""
        if self._over is None:
            self._over = self._upstream.loop.create_future()
            if self._decode.over:
                self._over.set_result(None)
        return await self._over

    async def prefill_answer(self, timeout_s: float) -> bytes | None:
        """Waits for prefill's answer; None if it failed or does not come in time."""
        if not self._prefill.over:
            self._prefill_waiter = self._upstream.loop.create_future()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._prefill_waiter
            except TimeoutError:
                return None
        return None if self._prefill.failure else self._prefill.kept

    def pause(self) -> None:
        """The client does not keep up: read no more from decode."""
        if self._decode.connection is not None:
            self._decode.connection.pause()

    def resume(self) -> None:
        """The client has caught up."""
        self._seen_at = self._upstream.sweeper.now
        if self._decode.connection is not None:
            self._decode.connection.resume()

    def close(self, *, served: bool) -> None:
        """Ends the attempt. Safe to call in any state.

        Args:
            served: decode has answered in full, so that prefill may finish on its own.
        """
        self._cut_decode()
        self.placement.release_decode()
        if served and not self._prefill.over:
            self._phase = _DRAINING
            self._look_at = 0.0
            self._seen_at = self._upstream.sweeper.now
            return
        self._leave()

    def abort(self) -> None:
        """Its client's own /abort_request: the answer ends as SGLang ends an aborted one."""
        self.aborted = True
        if self._decode.connection is None and not self._decode.over:
            # Not sent to both yet, so that no worker would make an end of it.
            self.judged(ABORTED)
        else:
            self._tell_to_abort()

    def _tell_to_abort(self) -> None:
        """Each leg that was sent and has not ended; for SGLang notices a closed connection seconds later."""
        if self._prefill.connection is not None:
            self._upstream.carriers.on_cut(self.placement.prefill.worker, self.rid)
        if self._decode.connection is not None:
            self._upstream.carriers.on_cut(self.placement.decode.worker, self.rid)

    def _cut_decode(self) -> None:
        if self._decode.connection is not None:
            self._upstream.carriers.on_cut(self.placement.decode.worker, self.rid)
        self._decode.abort()

    def _leave(self) -> None:
        self._phase = _CLOSED
        if self._prefill.connection is not None:
            self._upstream.carriers.on_cut(self.placement.prefill.worker, self.rid)
        self._prefill.abort()
        self.placement.release_prefill()
        self._upstream.sweeper.members.discard(self)

    # --- what the legs and the sweeper call

    def judged(self, failure: Failure | None) -> None:
        """The attempt has failed, or has something for the client."""
        if not self.verdict.done():
            self.verdict.set_result(failure)
            if failure is None:
                self.placement.decode.progress.note(self._started_at, self._upstream.sweeper.now)
            if self._connecting is not None:
                self._connecting.reschedule(self._upstream.loop.time())

    def decode_over(self, failure: Failure | None) -> None:
        """Decode's answer has ended, or broken off."""
        self.placement.release_decode()
        if self._over is None:
            self._over = self._upstream.loop.create_future()
        if not self._over.done():
            self._over.set_result(failure)

    def prefill_over(self, failure: Failure | None) -> None:
        """Prefill's leg has ended, one way or the other."""
        self.placement.release_prefill()
        self.prefill_failure = failure
        self._seen_at = self._upstream.sweeper.now
        if failure is None:
            self.placement.prefill.progress.note(self._started_at, self._seen_at)
        self._upstream.on_prefill_over(self)
        if self._phase == _DRAINING:
            self._leave()
        elif failure is not None:
            self.judged(failure)
        if self._prefill_waiter is not None and not self._prefill_waiter.done():
            self._prefill_waiter.set_result(None)

    def sweep(self, now: float) -> None:
        """Looks at the deadlines."""
        if now < self._look_at:
            return
        if self._phase == _DRAINING:
            if now - self._seen_at > self._upstream.rules.drain_prefill_s:
                self._leave()
        elif not self.verdict.done():
            self._sweep_waiting(now)
        elif not self._decode.over:
            self._sweep_relaying(now)

    def _sweep_waiting(self, now: float) -> None:
        rules = self._upstream.rules
        outcome, limit_s, since = Outcome.FIRST_TOKEN_TIMEOUT, rules.first_token_s, self._started_at
        if not self.order.stream:
            if rules.total_s is not None:
                outcome, limit_s, since = Outcome.DEADLINE, rules.total_s, self._received_at
        elif self._decode.reads > 1:
            # A role-only chunk: tokens are on their way, so the clock is that of a stream.
            self._sweep_relaying(now)
            return
        elif self._prefill.over:
            limit_s, since = rules.first_token_after_prefill_s, self._seen_at
        what = "token" if self.order.stream else "answer"
        if now - since > limit_s:
            self.judged(Failure(outcome, f"no {what} within {limit_s:g} s", 504, Role.DECODE))
        elif not self._prefill.over and is_stuck(
            self.placement, self._started_at, len(self.order.body), now, rules.stuck_s
        ):
            message = f"no {what}, while its workers answer newer requests, or prefill none at all"
            self.judged(Failure(Outcome.FIRST_TOKEN_TIMEOUT, message, 504, Role.PREFILL))

    def _sweep_relaying(self, now: float) -> None:
        limit_s = self._upstream.rules.between_chunks_s
        self._look_at = now + limit_s / _LOOKS
        reads, connection = self._decode.reads, self._decode.connection
        if reads != self._reads_seen or (connection is not None and connection.paused):
            self._reads_seen = reads
            self._seen_at = now
        elif now - max(self._seen_at, self._decode.tapped_at) > limit_s:
            message = f"nothing for {limit_s:g} s in the middle of the answer"
            failure = Failure(Outcome.STALL, message, 504, Role.DECODE)
            self._cut_decode()
            if self.verdict.done():
                self.decode_over(failure)
            else:
                self.judged(failure)
