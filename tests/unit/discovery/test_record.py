"""The registry's contract."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.discovery import record
from proxy.discovery.record import BadRecord, Keys
from proxy.roster import Origin, Role, State, Worker

KEYS = Keys("pd")
KEY = "/pd/v1/workers/org%2Fmodel/decode/d1"

_names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
_maybe_names = st.none() | st.text(st.characters(exclude_categories=["Cs"]))
_maybe_counts = st.none() | st.integers(0, 2**40)


@given(
    worker_id=_names,
    model=st.none() | _names | st.just("_"),
    role=st.sampled_from(Role),
    state=st.sampled_from(State),
    port=st.none() | st.integers(1, 65535),
    engine_version=_maybe_names,
    tp_size=_maybe_counts,
    max_total_tokens=_maybe_counts,
    started_at=st.none() | st.floats(0, 1e10),
    weight=st.floats(0.01, 100),
    labels=st.dictionaries(_names, _names, max_size=3),
)
def test_what_is_written_is_read_back(worker_id: str, port: int | None, **fields: object) -> None:
    worker = Worker(worker_id, "http://[::1]:30000", bootstrap_port=port, **fields)  # type: ignore[arg-type]
    key = KEYS.worker(worker)
    assert key.count("/") == 6, "whatever is in a name, the levels stay"
    found = KEYS.read(key, record.write(worker))
    assert found == worker
    assert dict(found.labels) == dict(worker.labels)
    assert found.origin is Origin.REGISTRY


@given(worker_id=_names)
def test_a_wish_names_its_worker(worker_id: str) -> None:
    assert KEYS.wished(KEYS.wish(worker_id)) == worker_id
    assert KEYS.wished(KEY) is None


def test_a_hand_written_value_needs_only_its_url() -> None:
    found = KEYS.read(KEY, b'{"url": "http://10.0.0.1:30000/"}')
    assert (found.worker_id, found.role, found.model) == ("d1", Role.DECODE, "org/model")
    assert found.url == "http://10.0.0.1:30000"
    assert found.state is State.READY


def test_fields_of_a_later_writer_are_ignored() -> None:
    value = {"schema": 9, "url": "http://h:1", "from_the_future": {"a": [1]}, "labels": {"a": "b"}}
    assert KEYS.read(KEY, json.dumps(value).encode()).labels == {"a": "b"}


def test_fields_of_a_later_writer_survive_when_its_worker_is_written_again() -> None:
    later = {"schema": 9, "url": "http://h:1", "from_the_future": {"a": [1, 2.50]}, "tp_size": 8}
    worker = replace(KEYS.read(KEY, json.dumps(later).encode()), state=State.DRAINING, tp_size=None)
    again = json.loads(record.write(worker, over=json.dumps(later).encode()))
    assert again["from_the_future"] == later["from_the_future"]
    assert (again["state"], again["schema"]) == ("draining", record.SCHEMA)
    assert "tp_size" not in again, "what we know is as we say it, also that it is not known"
    assert KEYS.read(KEY, json.dumps(again).encode()) == worker


def test_our_value_says_its_schema() -> None:
    worker = Worker("d1", "http://h:1", Role.DECODE)
    assert json.loads(record.write(worker))["schema"] == record.SCHEMA


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"", "truncated"),
        (b"\xff", "malformed"),
        (b"[]", "object"),
        (b"{}", "url"),
        (b'{"url": "h:1"}', "http://host:port"),
        (b'{"url": "http://h"}', "no port"),
        (b'{"url": "http://h:99999"}', "range"),
        (b'{"url": "http://h:1", "tp_size": "8"}', "tp_size"),
        (b'{"url": "http://h:1", "bootstrap_port": 0}', "bootstrap_port"),
        (b'{"url": "http://h:1", "weight": 0}', "weight"),
        (b'{"url": "http://h:1", "state": "asleep"}', "asleep"),
        (b'{"url": "http://h:1", "role": "prefill"}', "role prefill"),
        (b'{"url": "http://h:1", "model": "other"}', "other"),
    ],
)
def test_a_bad_value_is_named_with_its_key_and_its_fault(value: bytes, said: str) -> None:
    with pytest.raises(BadRecord, match=said) as raised:
        KEYS.read(KEY, value)
    assert KEY in raised.value.message


@pytest.mark.parametrize(
    "key", ["workers/m/decode", "workers/m/decode/d/x", "workers//decode/d", "workers/m/cook/d"]
)
def test_a_key_of_another_form_is_refused(key: str) -> None:
    with pytest.raises(BadRecord):
        KEYS.read("/pd/v1/" + key, b'{"url": "http://h:1"}')


def test_an_instance_is_read_from_any_value() -> None:
    assert record.instance_of(b'{"url": "http://h:1", "instance": "i"}') == "i"
    assert record.instance_of(b"junk") is None
