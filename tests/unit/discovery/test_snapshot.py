"""The snapshot on disk: whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.discovery.record import Keys
from proxy.discovery.snapshot import SnapshotFile
from proxy.roster import Origin, Role, Worker

WORKERS = [
    Worker("p1", "http://h:1", Role.PREFILL, model="a/b", bootstrap_port=8998),
    Worker("d1", "http://h:2", Role.DECODE, labels={"zone": "a"}),
]


def a_file(path: Path) -> SnapshotFile:
    return SnapshotFile(path, Keys("pd"), SystemClock())


def test_what_is_saved_is_loaded_as_of_a_snapshot(tmp_path: Path) -> None:
    file = a_file(tmp_path / "new" / "registry.json")
    file.save(WORKERS)
    found = file.load()
    assert found == WORKERS
    assert {worker.origin for worker in found} == {Origin.SNAPSHOT}


def test_no_file_is_no_workers(tmp_path: Path) -> None:
    assert a_file(tmp_path / "none").load() == []


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"version":2,"saved_at":0,"workers":{}}', b"\xff"])
def test_a_file_that_is_not_ours_is_no_workers(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "registry.json"
    path.write_bytes(data)
    assert a_file(path).load() == []


def test_one_bad_record_does_not_cost_the_others(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    a_file(path).save(WORKERS)
    path.write_text(path.read_text().replace("http://h:1", "nonsense"))
    assert [worker.worker_id for worker in a_file(path).load()] == ["d1"]


def test_a_save_that_fails_leaves_the_file_before_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = a_file(tmp_path / "registry.json")
    file.save(WORKERS)

    def no_space(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        file.save([])
    assert file.load() == WORKERS
    assert [path.name for path in tmp_path.iterdir()] == ["registry.json"]
