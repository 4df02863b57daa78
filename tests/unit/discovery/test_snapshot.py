"""The snapshot on disk: whole or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from proxy.clock import SystemClock
from proxy.discovery.record import Keys, Record, write
from proxy.discovery.snapshot import SnapshotFile
from proxy.roster import Origin, Role, State, Worker

WORKERS = [
    Worker("p1", "http://h:1", Role.PREFILL, model="a/b", bootstrap_port=8998),
    Worker("d1", "http://h:2", Role.DECODE, labels={"zone": "a"}),
]
RECORDS = [Record(worker, write(worker)) for worker in WORKERS]


def a_file(path: Path) -> SnapshotFile:
    return SnapshotFile(path, Keys("pd"), SystemClock())


def test_what_is_saved_is_loaded_as_of_a_snapshot(tmp_path: Path) -> None:
    file = a_file(tmp_path / "new" / "registry.json")
    file.save(RECORDS)
    found = file.load()
    assert found == RECORDS
    assert {worker.origin for worker, _ in found} == {Origin.SNAPSHOT}


def test_fields_that_only_a_later_version_knows_survive_save_and_load(tmp_path: Path) -> None:
    file = a_file(tmp_path / "registry.json")
    value = write(WORKERS[0])[:-1] + b',"from_the_future":[1]}'
    file.save([Record(replace(WORKERS[0], state=State.DRAINING), value)])
    ((worker, again),) = file.load()
    assert worker.state is State.DRAINING, "as it was told, wishes included"
    assert msgspec.json.decode(again)["from_the_future"] == [1]


def test_no_file_is_no_workers(tmp_path: Path) -> None:
    assert a_file(tmp_path / "none").load() == []


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"version":2,"saved_at":0,"workers":{}}', b"\xff"])
def test_a_file_that_is_not_ours_is_no_workers(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "registry.json"
    path.write_bytes(data)
    assert a_file(path).load() == []


def test_one_bad_record_does_not_cost_the_others(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    a_file(path).save(RECORDS)
    path.write_text(path.read_text().replace("http://h:1", "nonsense"))
    assert [worker.worker_id for worker, _ in a_file(path).load()] == ["d1"]


def test_a_save_that_fails_leaves_the_file_before_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = a_file(tmp_path / "registry.json")
    file.save(RECORDS)

    def no_space(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        file.save([])
    assert file.load() == RECORDS
    assert [path.name for path in tmp_path.iterdir()] == ["registry.json"]
