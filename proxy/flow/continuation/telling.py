"""One stream as its client hears it, whoever speaks: told by one pair, gone on with by others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

import msgspec

from proxy.flow.continuation.account import GenerateAccount, OpenAIAccount
from proxy.flow.continuation.plan import Kind, Refusal
from proxy.flow.continuation.resumption import Resumption
from proxy.flow.continuation.scribe import Scribe
from proxy.flow.continuation.stitch import Stitch, StitchedSink
from proxy.flow.continuation.tokenizers import Tokenizers
from proxy.flow.recipient import Recipient
from proxy.roster import Role
from proxy.routing.group import Group
from proxy.routing.ledger import Ledger
from proxy.upstream.decode_leg import Sink
from proxy.upstream.exchange import Exchange
from proxy.upstream.order import Order
from proxy.upstream.outcome import Failure, Outcome


class Mode(StrEnum):
    """Which broken streams are continued."""

    OFF = "off"
    EXACT = "exact"
    """Those of which every token is known."""
    ON = "on"


@dataclass(frozen=True, slots=True)
class Narrator:
    """What every telling works with."""

    mode: Mode
    tokenizers: Tokenizers
    ledger: Ledger
    now: Callable[[], float]
    """Monotonic seconds."""
    on_continued: Callable[[Kind], None]
    """Called for each stream that broke, with what became of it."""


class Telling:
    """Owns one stream from its first event to its end. Close it."""

    def __init__(self, narrator: Narrator, order: Order, recipient: Recipient, continued: list[str]) -> None:
        """`continued`: gets what becomes of each break."""
        self._narrator = narrator
        self._order = order
        self._recipient = recipient
        self._scribe: Scribe | None = None
        self._stitch: Stitch | None = None
        self._told = -1
        self.broke_off = False
        """Whether the last attempt told something and then broke: there is another order to be made."""
        self.over = False
        """Whether the client has been told the end, good or bad."""
        self._continued = continued

    async def relay(self, exchange: Exchange) -> Failure | None:
        """Relays an attempt's answer: a stream from where it stands, or a body too large to hold."""
        scribe, recipient = self._scribe, self._recipient
        if scribe is None:
            if not exchange.head().event_stream:
                return await self._relay_body(exchange)
            recipient.open(exchange.head(), exchange.pause, exchange.resume)
            scribe = self._scribe = self._new_scribe(exchange)
        else:
            recipient.goes_on(exchange.pause, exchange.resume)
        scribe.listen(exchange.decode_over)
        exchange.relay_to(self._stitched(exchange, scribe))
        scribe.keep_pace(recipient.itl.observe)
        failure = await exchange.over()
        if scribe.done:
            failure = None  # all has been said, however the connection ended
        elif scribe.failure is not None:
            failure = scribe.failure
        elif failure is None:
            failure = Failure(
                Outcome.TRUNCATED_MIDSTREAM, "the stream ended without a [DONE]", 502, Role.DECODE
            )
        if failure is None:
            self._end()
        elif self._narrator.mode is Mode.OFF:
            self.give_up(failure)
        else:
            self.broke_off = True
        return failure

    async def _relay_body(self, exchange: Exchange) -> Failure | None:
        recipient = self._recipient
        recipient.open(exchange.head(), exchange.pause, exchange.resume)
        exchange.relay_to(recipient)
        failure = await exchange.over()
        if failure is None:
            self._end()
        else:
            self.give_up(failure)
        return failure

    def _new_scribe(self, exchange: Exchange) -> Scribe:
        order, recipient = self._order, self._recipient
        account = GenerateAccount() if order.generate else OpenAIAccount()
        wanted = None if self._narrator.mode is Mode.OFF else account
        narrator = self._narrator
        judge = order.judge(Role.DECODE)
        return Scribe(judge, recipient, recipient.straight, wanted, narrator.ledger, narrator.now)

    def _stitched(self, exchange: Exchange, scribe: Scribe) -> Sink:
        if self._stitch is None:
            return scribe
        return StitchedSink(self._stitch, scribe, lambda: exchange.decode_over(None))

    def progressed(self) -> bool:
        """Whether the attempt that broke off has told anything that none before had."""
        account = None if self._scribe is None else self._scribe.account()
        if account is None or account.told <= self._told:
            return False
        self._told = account.told
        return True

    async def resume(self, group: Group, failed: str, failure: Failure) -> Order | Failure | None:
        """What goes on with the stream that broke off.

        Args:
            group: whose workers may be asked for token ids.
            failed: the worker that broke off, by its id.
            failure: how it broke off.

        Returns:
            The order for another pair; None if all had been said and the stream has been ended well;
            the failure if there is no going on, of which the client has been told.
        """
        assert self._scribe is not None
        self.broke_off = False
        account = self._scribe.account()
        try:
            if account is None:
                raise Refusal("too much was told to be remembered (setting limits.held_bytes)")
            resumption = Resumption(self._order, account, self._narrator.tokenizers, group, failed)
            found = await resumption.find(exact_only=self._narrator.mode is Mode.EXACT)
        except Refusal as refusal:
            return self._refuse(failure, str(refusal))
        except (msgspec.DecodeError, RecursionError, LookupError):
            return self._refuse(failure, "the stream is of an unknown shape")
        self._note(found.kind)
        if found.order is None:
            self._recipient.payload(found.ending)
            self._end()
            return None
        self._stitch = found.stitch
        return found.order

    def _refuse(self, failure: Failure, reason: str) -> Failure:
        self._note(Kind.REFUSED)
        return self.give_up(replace(failure, message=f"{failure.message}; it cannot be continued: {reason}"))

    def give_up(self, failure: Failure) -> Failure:
        """Ends the stream: an error in the route's own form, and the proper end."""
        self.over = True
        self._recipient.broken(failure)
        return failure

    def _end(self) -> None:
        self.over = True
        self._recipient.end()

    def _note(self, kind: Kind) -> None:
        self._continued.append(kind)
        self._narrator.on_continued(kind)

    def close(self) -> None:
        """Forgets what was told."""
        if self._scribe is not None:
            self._scribe.close()
