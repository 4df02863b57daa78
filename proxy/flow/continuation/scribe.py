"""Stands between the workers and the client of a stream: lets pass what is good, and remembers it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from proxy.errors import Overloaded
from proxy.flow.continuation.account import Account, GenerateAccount
from proxy.flow.events import END, all_datas
from proxy.routing.ledger import Ledger
from proxy.upstream.classify import Judge
from proxy.upstream.decode_leg import Sink
from proxy.upstream.framing import LONGEST_PLAIN, PLAIN_END, PLAIN_STARTS
from proxy.upstream.outcome import Failure, Outcome
from proxy.upstream.tap import Tap

FOLD_BYTES = 16 * 1024
"""So much is kept as it came, until it is folded into an account."""
# why: answers of up to some 200 tokens are never folded, which costs more than keeping what they told.
ROOMY_FOLD_BYTES = 64 * 1024
"""The same while the ledger has plenty of room."""
STREAM_BYTES = 8 * 1024 * 1024
"""The most that is remembered of one stream: 500,000 tokens, or 100,000 of a cumulative one."""
# why: the last events of a cumulative stream tell all, but a character may take four of them.
_LAST_READS = 5
# why: nothing is wrong as long as the last event says that nothing has ended. Inside of a text the
# same letters have their quotes escaped.
_GOES_ON = b'"finish_reason":null'


class Scribe(Tap):
    """Hears every event of one stream; keeps back the one that tells of a failure."""

    __slots__ = (
        "_account",
        "_charged",
        "_heard",
        "_judge",
        "_ledger",
        "_now",
        "_on_failure",
        "_pace",
        "_room",
        "_sink",
        "_straight",
        "done",
        "failure",
    )

    def __init__(
        self,
        judge: Judge,
        sink: Sink,
        straight: Sink,
        account: Account | None,
        ledger: Ledger,
        now: Callable[[], float],
    ) -> None:
        """Makes a scribe.

        Args:
            judge: tells failures.
            sink: where what is good goes.
            straight: where it goes if it is whole chunks as they came.
            account: what is heard is put there; None: nothing is remembered.
            ledger: counts what is remembered; without room in it nothing is.
            now: monotonic seconds.
        """
        self._judge = judge
        self._sink = sink
        self._straight = straight
        self._account = account
        self._ledger = ledger
        self._heard: list[bytes] = []
        self._charged = 0
        self._now = now
        self.heard_at = 0.0
        self._pace: Callable[[float], None] = _nobody  # what had been held came when it came, not now
        self._on_failure: Callable[[Failure], None] = _nobody
        self.failure: Failure | None = None
        """What an event told instead of a token."""
        self.done = False
        """Whether the stream has told its end."""
        self._room = 0  # bytes that may be kept until the next fold
        self._keep_more(0)

    def listen(self, on_failure: Callable[[Failure], None]) -> None:
        """Another attempt begins to speak; `on_failure` is told if an event tells of one."""
        self.failure = None
        self._on_failure = on_failure

    def keep_pace(self, observe: Callable[[float], None]) -> None:
        """From now on `observe` takes the time between reads, s."""
        self._pace = observe

    def data_received(self, data: bytes) -> None:
        """The path of every token: all of it, but for the client's transport."""
        size = len(data)
        if size <= LONGEST_PLAIN and data.startswith(PLAIN_STARTS[size]) and data.endswith(PLAIN_END):
            at = data.rfind(_GOES_ON)
            if at > 0 and data.find(b"data:", at) < 0:
                if self._account is not None:
                    self._heard.append(data)
                    self._room -= size
                    if self._room < 0:
                        self._fold(self._account)
                now = self._now()
                self._pace(now - self.heard_at)
                self.heard_at = now
                self._straight.raw(data)
                return
        self.connection.data_received(data)

    def raw(self, data: bytes) -> None:
        """Whole chunks that are not plain, or with an event that must be looked at."""
        if self._passes(data):
            self._straight.raw(data)

    def payload(self, data: bytes) -> None:
        """Events without the worker's chunk framing."""
        if self._passes(data):
            self._sink.payload(data)

    def _passes(self, data: bytes) -> bool:
        """Whether all of it may go on; then it is remembered."""
        at = data.rfind(_GOES_ON)
        if (at < 0 or data.find(b"data:", at) > 0) and not self._good(data):
            return False
        if self._account is not None:
            self._heard.append(data)
            self._room -= len(data)
            if self._room < 0:
                self._fold(self._account)
        now = self._now()
        self._pace(now - self.heard_at)
        self.heard_at = now
        return True

    def _good(self, events: bytes) -> bool:
        """Looks closely. What is good in front of a failure still goes on."""
        if self.failure is not None:
            return False
        datas = all_datas(events)
        # A model may have said these words, of course.
        if b'"error"' in events or b'"abort"' in events:
            for at, data in enumerate(datas):
                verdict = self._judge.event(data) if data != END else True
                if isinstance(verdict, Failure) and verdict.outcome is not Outcome.ABORTED_BY_ENGINE:
                    self._pass_on(datas[:at])
                    self.failure = _after_a_token(verdict)
                    self._on_failure(self.failure)
                    return False
        self.done |= END in datas
        return True

    def _pass_on(self, datas: list[bytes]) -> None:
        if datas:
            self.payload(b"".join([b"data: %b\n\n" % data for data in datas]))

    def account(self) -> Account | None:
        """All that was told; None if it could not be remembered."""
        account = self._account
        if account is not None:
            account.read(b"".join(self._heard))
            self._heard.clear()
        return account

    def _fold(self, account: Account) -> None:
        heard = self._heard
        if isinstance(account, GenerateAccount) and account.cumulative:
            del heard[:-_LAST_READS]
            self._keep_more(sum(map(len, heard)))
        else:
            account.read(b"".join(heard))
            heard.clear()
            self._keep_more(account.size_bytes)

    def _keep_more(self, kept_bytes: int) -> None:
        """Charges for what is kept, and for all that may come until the next fold."""
        if self._account is None:
            return
        self._room = ROOMY_FOLD_BYTES if self._ledger.roomy else FOLD_BYTES
        size_bytes = self._room + kept_bytes
        try:
            if size_bytes > STREAM_BYTES:
                raise Overloaded("one stream holds too much")
            self._ledger.take(size_bytes - self._charged)
            self._charged = size_bytes
        except Overloaded:
            self.close()

    def close(self) -> None:
        """Forgets all."""
        self._ledger.give(self._charged)
        self._charged = 0
        self._account = None
        self._heard.clear()


def _after_a_token(failure: Failure) -> Failure:
    """A request that has had tokens was no bad one: 0.5.2 calls any failure of a completion a 400."""
    if failure.outcome is not Outcome.BAD_REQUEST:
        return failure
    return replace(failure, outcome=Outcome.ENGINE_ERROR, status=502, body=b"")


def _nobody(_: object) -> None:
    """Hears what nobody listens to yet."""
