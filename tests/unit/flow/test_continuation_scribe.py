"""What the scribe lets pass, what it keeps back, and how much it holds."""

from __future__ import annotations

import msgspec
import pytest

from proxy.flow.continuation.account import GenerateAccount, OpenAIAccount
from proxy.flow.continuation.scribe import FOLD_BYTES, ROOMY_FOLD_BYTES, Scribe
from proxy.roster import Role
from proxy.routing.ledger import Ledger
from proxy.telemetry.histogram import Histogram
from proxy.upstream.classify import Judge
from proxy.upstream.outcome import Failure, Outcome

DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"message":"out of memory","code":500}}\n\n'


class Heard:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self._got: list[bytes] = []
        self.raw = self.payload = self._got.append

    @property
    def all(self) -> bytes:
        return b"".join(self._got)


class Desk:
    """A scribe, where it writes to, and what it told."""

    def __init__(
        self, *, generate: bool = True, remembers: bool = True, limit: int = 1 << 30, others: int = 0
    ) -> None:
        """`others`: bytes of the ledger that others hold."""
        self.sink, self.ledger = Heard(), Ledger(limit)
        self.ledger.take(others)
        self.told: list[Failure] = []
        account = GenerateAccount() if generate else OpenAIAccount()
        judge = Judge(generate, Role.DECODE)
        self.now = 0.0
        self.itl = Histogram([1.0])
        kept = account if remembers else None
        self.scribe = Scribe(judge, self.sink, self.sink, kept, self.ledger, lambda: self.now)
        self.scribe.listen(self.told.append)


def token(text: str, count: int, ids: list[int] | None = None) -> bytes:
    meta = {"id": "r", "finish_reason": None, "prompt_tokens": 1, "completion_tokens": count}
    said = {"text": text, "output_ids": list(range(count)) if ids is None else ids, "meta_info": meta}
    return b"data: %b\n\n" % msgspec.json.encode(said)


@pytest.mark.parametrize(
    ("events", "outcome"),
    [
        (ERROR, Outcome.ENGINE_ERROR),
        (ERROR.replace(b"500", b"400"), Outcome.ENGINE_ERROR),
        (
            token("", 3).replace(b"null", b'{"type":"abort","message":"x","status_code":500}'),
            Outcome.ENGINE_ERROR,
        ),
        (ERROR.replace(b"out of memory", b"KVTransferError(1)"), Outcome.KV_TRANSFER),
    ],
)
def test_what_tells_of_a_failure_is_kept_back_and_what_came_before_it_is_not(
    events: bytes, outcome: Outcome
) -> None:
    desk = Desk()
    desk.scribe.payload(token("a", 1))
    desk.scribe.payload(token("ab", 2) + events + DONE)
    desk.scribe.payload(DONE)
    assert desk.sink.all == token("a", 1) + token("ab", 2)
    assert [one.outcome for one in desk.told] == [outcome]
    assert desk.scribe.failure is desk.told[0]
    assert not desk.scribe.done


@pytest.mark.parametrize(
    "text", ['{"error": 1}', 'data: {"error":{}}', '"finish_reason":{"type":"abort"}', "data: [DONE]\n\n"]
)
def test_a_model_may_print_whatever_it_likes(text: str) -> None:
    desk = Desk()
    ends = token(text, 2).replace(b"null", b'{"type":"stop","matched":1}')
    desk.scribe.payload(token(text, 1) + ends)
    assert desk.sink.all == token(text, 1) + ends
    assert (desk.told, desk.scribe.done) == ([], False)
    desk.scribe.payload(DONE)
    assert desk.scribe.done


def test_a_users_own_abort_passes() -> None:
    desk = Desk()
    event = token("a", 1).replace(b"null", b'{"type":"abort","message":"Aborted","status_code":null}')
    desk.scribe.payload(event + DONE)
    assert (desk.sink.all, desk.told, desk.scribe.done) == (event + DONE, [], True)


@pytest.mark.parametrize(("others", "kept"), [(0, ROOMY_FOLD_BYTES), (1 << 24, FOLD_BYTES)])
@pytest.mark.parametrize("disjoint", [False, True])
def test_folding_loses_nothing_and_holds_little(disjoint: bool, others: int, kept: int) -> None:
    desk = Desk(limit=1 << 30, others=others)
    for count in range(1, 801):
        text = "x" * count if not disjoint else "x"
        desk.scribe.payload(token(text, count, [count] if disjoint else None))
    held = desk.ledger.held_bytes - others
    assert kept <= held <= kept + (800 * 30 if disjoint else 6 * len(desk.sink.all[-30_000:]))
    account = desk.scribe.account()
    assert account is not None
    assert account.ids is not None
    assert (account.text, len(account.ids), account.seam) == ("x" * 800, 800, 800)
    desk.scribe.close()
    assert desk.ledger.held_bytes == others


def test_the_time_between_reads_is_observed_once_the_client_reads_along() -> None:
    desk = Desk()
    for at, event in ((10.0, "held"), (10.0, "held too"), (10.5, "live"), (12.5, "late")):
        if at > 10.0:
            desk.scribe.keep_pace(desk.itl.observe)
        desk.now = at
        desk.scribe.raw(token(event, 1))
    assert (desk.itl.buckets(), desk.itl.total) == ([("1.0", 1.0), ("+Inf", 2.0)], 2.5)


@pytest.mark.parametrize(
    "room", [FOLD_BYTES - 1, FOLD_BYTES + 100], ids=["at its start", "at its first fold"]
)
def test_without_room_in_the_ledger_nothing_is_remembered_and_all_passes(room: int) -> None:
    others = (1 << 30) - room
    desk = Desk(limit=1 << 30, others=others)
    assert desk.ledger.held_bytes == others + (FOLD_BYTES if room > FOLD_BYTES else 0)
    events = [token("x" * count, count) for count in range(1, 400)]
    for event in events:
        desk.scribe.payload(event)
    assert desk.sink.all == b"".join(events)
    assert (desk.scribe.account(), desk.ledger.held_bytes) == (None, others)


def test_a_scribe_that_need_not_remember_takes_no_room() -> None:
    desk = Desk(remembers=False)
    desk.scribe.payload(token("a", 1))
    assert (desk.scribe.account(), desk.ledger.held_bytes) == (None, 0)
