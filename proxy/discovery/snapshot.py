"""The last known workers on disk, for a proxy that starts while etcd is away."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import msgspec
import structlog

from proxy.clock import Clock
from proxy.discovery import record
from proxy.discovery.record import BadRecord, Keys, Record
from proxy.roster import Origin

log = structlog.get_logger(__name__)

VERSION = 1
MAX_BYTES = 64 * 1024 * 1024
"""why: 5,000 workers are about 3 MB; a larger file is not one of ours."""


class _File(msgspec.Struct):
    version: int
    saved_at: float
    workers: dict[str, msgspec.Raw]
    """As in the registry: a key, and a value of its contract."""


class SnapshotFile:
    """One file, always whole: written beside, synced, then renamed.

    Both methods wait for the disk: call them in a thread.
    """

    def __init__(self, path: Path, keys: Keys, clock: Clock) -> None:
        self._path = path
        self._keys = keys
        self._clock = clock

    def save(self, records: Iterable[Record]) -> None:
        """Replace the file. Fields that only a later version knows are kept, for when it is the reader.

        Raises:
            OSError: the file before it stays as it was.
            ValueError: more than `MAX_BYTES`.
        """
        values = {
            self._keys.worker(worker): msgspec.Raw(record.write(worker, over=value))
            for worker, value in records
        }
        data = msgspec.json.encode(_File(VERSION, self._clock.time(), values))
        if len(data) > MAX_BYTES:
            raise ValueError(f"snapshot {self._path}: {len(data)} bytes are more than {MAX_BYTES}")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(prefix=self._path.name + ".", dir=self._path.parent)
        try:
            with open(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self._path)
        except OSError:
            Path(beside).unlink(missing_ok=True)
            raise
        _sync_folder(self._path.parent)

    def load(self) -> list[Record]:
        """The workers saved last, each with origin SNAPSHOT; none if there is no file that can be used."""
        try:
            if self._path.stat().st_size > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES} bytes")
            found = msgspec.json.decode(self._path.read_bytes(), type=_File)
            if found.version != VERSION:
                raise ValueError(f"version {found.version}, this program reads {VERSION}")
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
            log.warning("snapshot: cannot be used", path=str(self._path), error=str(error))
            return []
        records = []
        for key, raw in found.workers.items():
            value = bytes(raw)
            try:
                records.append(Record(self._keys.read(key, value, Origin.SNAPSHOT), value))
            except BadRecord as error:
                log.warning("snapshot: a bad record, left out", path=str(self._path), error=error.message)
        log.info(
            "snapshot: loaded",
            path=str(self._path),
            workers=len(records),
            age_s=round(self._clock.time() - found.saved_at, 1),
        )
        return records


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
