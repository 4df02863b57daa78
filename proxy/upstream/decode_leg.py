"""The decode leg of an attempt: its answer is held until judged, then relayed."""

from __future__ import annotations

from typing import Protocol

from proxy.errors import Overloaded
from proxy.roster import Role
from proxy.routing.ledger import Ledger
from proxy.upstream.breakage import NOBODY, LegOwner, broken
from proxy.upstream.classify import Verdict, plainly_good
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.framing import ResponseHead
from proxy.upstream.order import Order
from proxy.upstream.outcome import Failure, Outcome
from proxy.upstream.retry_after import with_retry_after
from proxy.upstream.tap import Tap


class Sink(Protocol):
    """Where decode's answer goes once it has been judged good."""

    def raw(self, data: bytes) -> None:
        """Whole events in whole chunks, framing and all."""

    def payload(self, data: bytes) -> None:
        """Whole events, or a piece of a body that is no event stream."""


class DecodeLeg:
    """Holds decode's answer until it has been judged, then hands it to a sink as it comes."""

    __slots__ = (
        "_held",
        "_held_bytes",
        "_held_limit",
        "_ledger",
        "_order",
        "_owner",
        "_sink",
        "_tap",
        "connection",
        "head",
        "judged",
        "over",
        "raw",
        "reads",
        "streaming",
    )

    def __init__(self, owner: LegOwner, order: Order, held_limit_bytes: int, ledger: Ledger) -> None:
        """Makes a leg.

        Args:
            owner: is told of the verdict, once, before anything may be relayed; and after a good one
                of the end, once.
            order: what was asked for.
            held_limit_bytes: how much is held at most; an answer beyond it counts as good.
            ledger: counts what is held.
        """
        self._owner: LegOwner = owner
        self._order = order
        self._held: list[tuple[bool, bytes]] = []
        self._held_bytes = 0
        self._held_limit = held_limit_bytes
        self._ledger = ledger
        self._sink: Sink | None = None
        self._tap: Tap | None = None
        self.raw = order.raw
        self.head: ResponseHead | None = None
        self.streaming = False
        """Whether the answer is an event stream, to be relayed as it comes."""
        self.judged = False
        self.over = False
        self.reads = 0
        """Grows with everything that comes, unless a tap hears it first."""
        self.connection: UpstreamConnection | None = None

    def on_head(self, head: ResponseHead) -> None:
        """Proves nothing yet: SGLang answers 200 before it knows."""
        self.head = head
        self.reads += 1
        self.streaming = head.event_stream and head.status == 200

    def on_whole(self, head: ResponseHead, body: bytes) -> None:
        """All at once."""
        self.head = head
        self.connection = None
        self.over = True
        self._held.append((False, body))
        self._held_bytes = len(body)
        try:
            self._ledger.take(self._held_bytes)
        except Overloaded as error:
            self._held_bytes = 0
            self._judged(Failure(Outcome.OVERLOADED, error.message, 503, Role.DECODE))
        else:
            self._judge_whole(head, body)

    def _judge_whole(self, head: ResponseHead, body: bytes) -> None:
        failure = None
        if not plainly_good(head.status, body):
            failure = self._order.judge(Role.DECODE).whole(head.status, body)
        self._judged(None if failure is None else with_retry_after(failure, head))

    def on_raw(self, data: bytes) -> None:
        """Those of a stream's reads that its tap leaves."""
        self.reads += 1
        if self._sink is not None:
            self._sink.raw(data)
        else:
            self._hold(True, data)

    def on_events(self, payload: bytes) -> None:
        """The same without the worker's chunk framing."""
        self.reads += 1
        if self._sink is not None:
            self._sink.payload(payload)
        else:
            self._hold(False, payload)

    on_body = on_events

    def _hold(self, framed: bool, data: bytes) -> None:
        try:
            self._ledger.take(len(data))
        except Overloaded as error:
            self._give_up(error)
            return
        self._held.append((framed, data))
        self._held_bytes += len(data)
        if self.judged:
            return
        verdict: Verdict = False
        if self.streaming:
            verdict = self._order.judge(Role.DECODE).events(data)
        if verdict is False and self._held_bytes > self._held_limit:
            # Too much to hold: it goes on as it comes, and is not retryable any more.
            verdict = True
        if verdict is not False:
            self._judged(verdict if isinstance(verdict, Failure) else None)

    def _give_up(self, error: Overloaded) -> None:
        if self.connection is not None:
            self.connection.abort()
        self.on_broken(error.message, untouched=False, reused=False)

    def _judged(self, failure: Failure | None) -> None:
        self.judged = True
        self._owner.judged(failure)

    def on_end(self) -> None:
        """The answer is whole."""
        self.connection = None
        self.over = True
        if self.judged:
            self._owner.decode_over(None)
        elif self.streaming:
            self._judged(Failure(Outcome.EMPTY, "the stream ended without a token", 502, Role.DECODE))
        else:
            assert self.head is not None
            self._judge_whole(self.head, self.whole())

    def on_broken(self, reason: str, *, untouched: bool, reused: bool) -> None:
        """The answer broke off."""
        self.connection = None
        self.over = True
        failure = broken(reason, Role.DECODE, untouched, reused, self.judged)
        if self.judged:
            self._owner.decode_over(failure)
        else:
            self._judged(failure)

    def whole(self) -> bytes:
        """All that is held."""
        held = self._held
        return held[0][1] if len(held) == 1 else b"".join([data for _, data in held])

    @property
    def tapped_at(self) -> float:
        """When its tap last heard anything, monotonic seconds."""
        return 0.0 if self._tap is None else self._tap.heard_at

    def relay_to(self, sink: Sink) -> None:
        """Hands over what is held, and from now on all that comes. Only after a good verdict."""
        held = self._let_go()
        for framed, data in held:
            if framed:
                sink.raw(data)
            else:
                sink.payload(data)
        self._sink = sink
        if self.raw and self.connection is not None and isinstance(sink, Tap):
            self._tap = sink
            self.connection.divert_to(sink)

    def _let_go(self) -> list[tuple[bool, bytes]]:
        self._ledger.give(self._held_bytes)
        self._held_bytes = 0
        held, self._held = self._held, []
        return held

    def abort(self) -> None:
        """As for prefill."""
        connection, self.connection = self.connection, None
        self.judged = self.over = True
        self._let_go()
        self._sink = None
        self._owner = NOBODY
        if connection is not None:
            connection.abort()
