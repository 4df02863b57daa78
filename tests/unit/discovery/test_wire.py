"""etcd's JSON, in its several versions' shapes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.discovery import wire
from proxy.discovery.refusals import EtcdError, EtcdUnavailable, Unauthenticated, as_error


@given(st.lists(st.binary(min_size=1).map(lambda line: line.replace(b"\n", b"n"))), st.data())
def test_lines_do_not_depend_on_how_they_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines) + b"rest"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    splitter, found = wire.Lines(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += splitter.feed(stream[start:end])
    assert found == lines


def test_a_line_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_LINE_BYTES", 100)
    splitter = wire.Lines()
    splitter.feed(b"x" * 100)
    with pytest.raises(ValueError, match="more than"):
        splitter.feed(b"x")


def test_sixty_four_bit_numbers_are_strings() -> None:
    answer = wire.decode(b'{"header":{"cluster_id":"15118495548433857066","revision":"7"}}', wire.RangeAnswer)
    assert (answer.header.cluster_id, answer.header.revision) == (15118495548433857066, 7)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b'{"error":"x","code":14,"message":"etcdserver: leader changed"}', EtcdUnavailable),
        (b'{"error":"etcdserver: no leader","code":9,"message":"etcdserver: no leader"}', EtcdUnavailable),
        (b'{"code":14,"message":"etcdserver: request timed out","details":[]}', EtcdUnavailable),
        (b'{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader"}}', EtcdUnavailable),
        (b'{"error":"etcdserver: invalid auth token","code":16,"message":"etcdserver: invalid auth token"}',
         Unauthenticated),
        (b'{"error":"x","code":3,"message":"etcdserver: revision of auth store is old"}', Unauthenticated),
        (b'{"error":"x","code":5,"message":"etcdserver: requested lease not found"}', EtcdError),
    ],
)  # fmt: skip
def test_an_error_is_told_by_its_code_in_every_versions_shape(data: bytes, kind: type[EtcdError]) -> None:
    failure = wire.failure_in(data)
    assert failure is not None
    error = as_error(failure, "http://etcd")
    assert type(error) is kind
    assert "http://etcd" in error.message


def test_a_success_is_no_error() -> None:
    assert wire.failure_in(b'{"header":{},"kvs":[{"key":"Y29kZQ=="}]}') is None


@pytest.mark.parametrize("data", [b"", b"<html>", b"404 page not found"])
def test_what_is_no_json_is_not_etcds(data: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        wire.failure_in(data)


def test_a_prefix_ends_before_the_next_one() -> None:
    assert wire.prefix_end(b"/pd/v1/") == b"/pd/v10"
