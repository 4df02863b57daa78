"""From keys to changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from proxy.discovery import record
from proxy.discovery.guard import Guard
from proxy.discovery.index import Entry, Index
from proxy.discovery.record import Keys, Record
from proxy.discovery.view import View
from proxy.roster import Change, Origin, Role, State, Worker

KEYS = Keys("pd")
D1 = Worker("d1", "http://h:1", Role.DECODE, instance="a")
D2 = Worker("d2", "http://h:2", Role.DECODE, instance="a")
BOTH = {KEYS.worker(worker): record.write(worker) for worker in (D1, D2)}


def a_view(*, answers: bool = False) -> View:
    return View(KEYS, Guard(lambda worker_id: answers))


def listed(view: View, values: dict[str, bytes], revision: int = 1) -> list[Change]:
    fresh = view.empty_index()
    for key, value in values.items():
        fresh.put(view.read(key, value, revision))
    return [change for changes in view.replace_all(fresh, 0.0) for change in changes]


def put(view: View, key: str, value: bytes, revision: int) -> list[Change]:
    return view.update([view.read(key, value, revision)], 0.0)


def workers(view: View) -> dict[str, Worker]:
    return {record.worker.worker_id: record.worker for record in view.records}


def told(changes: Iterable[Change]) -> dict[str, Worker | None]:
    return {change.worker_id: change.worker for change in changes}


def test_a_second_list_tells_only_what_changed() -> None:
    view = a_view()
    assert told(listed(view, BOTH)) == {"d1": D1, "d2": D2}
    assert listed(view, BOTH, revision=7) == []
    assert told(listed(view, {KEYS.worker(D1): BOTH[KEYS.worker(D1)]})) == {"d2": None}


def test_the_same_event_again_tells_nothing() -> None:
    view = a_view()
    key = KEYS.worker(D1)
    assert put(view, key, BOTH[key], 2)
    assert put(view, key, BOTH[key], 2) == []
    assert view.update([key], 0.0)
    assert view.update([key], 0.0) == []


def test_a_worker_that_changes_its_role_is_one_worker() -> None:
    """It writes its new key before the old one goes."""
    view = a_view()
    prefill = replace(D1, role=Role.PREFILL)
    put(view, KEYS.worker(D1), record.write(D1), 2)
    assert told(put(view, KEYS.worker(prefill), record.write(prefill), 3)) == {"d1": prefill}
    assert view.update([KEYS.worker(D1)], 0.0) == []
    assert told(view.update([KEYS.worker(prefill)], 0.0)) == {"d1": None}


def test_a_bad_value_without_a_good_one_before_is_no_worker() -> None:
    view = a_view()
    assert put(view, KEYS.worker(D1), b"junk", 2) == []
    assert (view.bad_values, view.size) == (1, 1)
    assert told(put(view, KEYS.worker(D1), record.write(D1), 3)) == {"d1": D1}


def test_a_worker_whose_value_went_bad_is_gone_with_its_key() -> None:
    view = a_view()
    put(view, KEYS.worker(D1), record.write(D1), 2)
    assert put(view, KEYS.worker(D1), b"junk", 3) == []
    assert listed(view, {KEYS.worker(D1): b"junk"}, 3) == []
    assert told(view.update([KEYS.worker(D1)], 0.0)) == {"d1": None}


def test_a_wish_for_a_worker_that_is_not_there_waits_for_it() -> None:
    view = a_view()
    assert put(view, KEYS.wish("d1"), b"", 2) == []
    assert told(put(view, KEYS.worker(D1), record.write(D1), 3)) == {"d1": replace(D1, state=State.DRAINING)}
    assert told(listed(view, BOTH)) == {"d1": D1, "d2": D2}


def test_a_list_replaces_a_snapshot_and_tells_where_each_worker_is_from_now() -> None:
    view = a_view()
    seeded = [Record(replace(worker, origin=Origin.SNAPSHOT)) for worker in (D1, D2)]
    assert [change.worker_id for changes in view.seed(seeded) for change in changes] == ["d1", "d2"]
    one = {KEYS.worker(D1): BOTH[KEYS.worker(D1)]}
    changes = told(listed(view, one))
    assert changes == {"d1": D1, "d2": None}
    assert changes["d1"] is not None
    assert changes["d1"].origin is Origin.REGISTRY


def test_an_empty_list_is_not_believed_of_workers_that_answer() -> None:
    view = a_view(answers=True)
    listed(view, BOTH)
    assert listed(view, {}) == []
    assert set(workers(view)) == {"d1", "d2"}
    assert told(view.release(60.0, reachable=True)) == {"d1": None, "d2": None}


def test_a_held_worker_that_returns_changed_is_told() -> None:
    view = a_view(answers=True)
    listed(view, BOTH)
    listed(view, {})
    again = replace(D1, instance="b")
    assert told(put(view, KEYS.worker(D1), record.write(again), 9)) == {"d1": again}
    assert told(view.release(60.0, reachable=True)) == {"d2": None}


MANY = [replace(D1, worker_id=f"d{n}") for n in range(250)]


def many_in(view: View) -> Index:
    fresh = view.empty_index()
    for worker in MANY:
        fresh.put(view.read(KEYS.worker(worker), record.write(worker), 1))
    return fresh


def test_a_big_list_is_told_in_slices_and_its_deletions_are_judged_together() -> None:
    view = a_view(answers=True)
    sizes = [len(changes) for changes in view.replace_all(many_in(view), 0.0)]
    assert sizes == [100, 100, 50]
    few = view.empty_index()
    for worker in MANY[:100]:
        few.put(view.read(KEYS.worker(worker), record.write(worker), 1))
    assert [*chain(*view.replace_all(few, 0.0))] == [], "150 of 250 together are more than half"
    silent = a_view(answers=False)
    [*silent.replace_all(many_in(silent), 0.0)]
    assert sum(map(len, silent.replace_all(silent.empty_index(), 0.0))) == 250


def test_a_list_cut_off_in_the_middle_leaves_nothing_half() -> None:
    view = a_view()
    old = replace(D1, worker_id="old")
    put(view, KEYS.worker(old), record.write(old), 1)
    cut = view.replace_all(many_in(view), 0.0)
    first = next(cut)  # and never again
    rest = [*chain(*view.replace_all(many_in(view), 0.0))]
    assert told(first) | told(rest) == {"old": None} | {worker.worker_id: worker for worker in MANY}
    assert len(first) + len(rest) == 251, "each told once"


def test_a_held_worker_whose_key_is_back_in_a_list_half_told_is_not_let_go() -> None:
    view = a_view(answers=True)
    [*view.replace_all(many_in(view), 0.0)]
    [*view.replace_all(view.empty_index(), 0.0)]
    telling = view.replace_all(many_in(view), 59.0)
    next(telling)
    assert view.release(60.0, reachable=True) == []
    assert [*chain(*telling)] == []
    assert len(view) == 250


def test_a_snapshot_is_no_longer_told_once_a_list_has_come() -> None:
    view = a_view()
    seeding = view.seed([Record(replace(worker, origin=Origin.SNAPSHOT)) for worker in MANY])
    assert len(next(seeding)) == 100
    listed(view, BOTH)
    assert [*seeding] == []
    assert set(workers(view)) == {"d1", "d2"}


def test_a_later_writers_fields_stay_with_what_was_told() -> None:
    view = a_view()
    value = record.write(D1)[:-1] + b',"from_the_future":1}'
    put(view, KEYS.worker(D1), value, 2)
    put(view, KEYS.worker(D1), b"junk", 3)
    put(view, KEYS.wish("d1"), b"", 4)
    assert [*view.records] == [Record(replace(D1, state=State.DRAINING), value)]
    newer, before = value.replace(b"1}", b"2}"), view.version
    assert put(view, KEYS.worker(D1), newer, 5) == [], "to us it is the same"
    assert [one.value for one in view.records] == [newer]
    assert view.version != before, "but the snapshot is to be written"


_states = st.sampled_from([None, b"junk", record.write(D1), record.write(replace(D1, instance="b"))])


@given(st.lists(st.tuples(st.booleans(), _states, st.booleans()), max_size=12))
def test_what_was_told_is_what_was_said(steps: list[tuple[bool, bytes | None, bool]]) -> None:
    """Whatever comes by lists and by events: applied in order, the changes make the registry's last word."""
    view = a_view()
    known: dict[str, Worker | None] = {}
    for revision, (by_list, value, wished) in enumerate(steps, start=1):
        keys = ({KEYS.worker(D1): value} if value is not None else {}) | (
            {KEYS.wish("d1"): b""} if wished else {}
        )
        if by_list:
            changes = listed(view, keys, revision)
        else:
            events: list[Entry | str] = [
                view.read(key, keys[key], revision) if key in keys else key
                for key in (KEYS.worker(D1), KEYS.wish("d1"))
            ]
            changes = view.update(events, 0.0)
        known |= told(changes)
        assert {i: w for i, w in known.items() if w is not None} == workers(view)
        if value is None:
            assert not workers(view)
        elif value != b"junk":
            said = KEYS.read(KEYS.worker(D1), value)
            assert workers(view)["d1"] == (replace(said, state=State.DRAINING) if wished else said)
