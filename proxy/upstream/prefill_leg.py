"""The prefill leg of an attempt: its end is the end of the KV transfer."""

from __future__ import annotations

from proxy.roster import Role
from proxy.upstream.breakage import NOBODY, LegOwner, broken
from proxy.upstream.classify import judge_error
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.framing import ResponseHead
from proxy.upstream.order import Order
from proxy.upstream.outcome import Failure
from proxy.upstream.retry_after import with_retry_after

_LONGEST_ERROR = 65536


class PrefillLeg:
    """Drains prefill's answer; its end is the end of the KV transfer."""

    __slots__ = (
        "_head",
        "_keep_limit",
        "_kept",
        "_order",
        "_owner",
        "connection",
        "failure",
        "over",
        "raw",
    )

    def __init__(self, owner: LegOwner, order: Order, answer_bytes: int) -> None:
        """Makes a leg.

        Args:
            owner: is told of the end, once.
            order: what was asked for, and whether the answer is to be kept.
            answer_bytes: how much of an answer that is wanted is kept.
        """
        self._owner: LegOwner = owner
        self._head: ResponseHead | None = None
        self._order = order
        self._keep_limit = answer_bytes if order.keep_prefill else 0
        self._kept: list[bytes] = []
        self.raw = not order.keep_prefill
        self.failure: Failure | None = None
        self.over = False
        self.connection: UpstreamConnection | None = None

    @property
    def kept(self) -> bytes:
        """The answer, as far as it was to be kept."""
        return b"".join(self._kept)

    def on_head(self, head: ResponseHead) -> None:
        """A status other than 200 has a body worth keeping."""
        self._head = head
        if head.status != 200 and not self._keep_limit:
            self._keep_limit = _LONGEST_ERROR

    def on_whole(self, head: ResponseHead, body: bytes) -> None:
        """All at once."""
        if head.status == 200 and not self._keep_limit:
            self._finish(None)
            return
        self.on_head(head)
        self.on_body(body)
        self.on_end()

    def on_raw(self, data: bytes) -> None:
        """Events: looked at only if they might tell of a failure, and only once."""
        if self.failure is None and (b'"error"' in data or b'"abort"' in data):
            verdict = self._order.judge(Role.PREFILL).events(data)
            if isinstance(verdict, Failure):
                self.failure = verdict

    def on_events(self, payload: bytes) -> None:
        """The same, kept if wanted."""
        self.on_raw(payload)
        self.on_body(payload)

    def on_body(self, piece: bytes) -> None:
        """Kept as far as wanted, thrown away otherwise."""
        if self._keep_limit > 0:
            self._keep_limit -= len(piece)
            self._kept.append(piece)

    def on_end(self) -> None:
        """The transfer has ended, one way or the other."""
        head = self._head
        if head is not None and head.status != 200:
            self.failure = with_retry_after(judge_error(head.status, self.kept, Role.PREFILL), head)
        self._finish(self.failure)

    def on_broken(self, reason: str, *, untouched: bool, reused: bool) -> None:
        """The transfer may or may not have happened."""
        self._finish(broken(reason, Role.PREFILL, untouched, reused, False))

    def _finish(self, failure: Failure | None) -> None:
        self.connection = None
        self.failure = failure
        self.over = True
        self._owner.prefill_over(failure)

    def abort(self) -> None:
        """Closes the connection, which for SGLang is the abort; nobody is called any more.

        To be called at the end in any case: it also lets go of whoever was to be called, or each
        attempt would stay, body and all, in a reference cycle until the garbage collector comes.
        """
        connection, self.connection = self.connection, None
        self.over = True
        self._owner = NOBODY
        if connection is not None:
            connection.abort()
