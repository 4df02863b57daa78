"""The index: keys as they stand in the registry, found by key and by the worker that they are about. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from proxy.discovery.record import Keys, Record
from proxy.roster import State


@dataclass(frozen=True, slots=True)
class Entry:
    """One key as it stands in the registry."""

    key: str
    value: bytes
    revision: int
    """Of its last change; of two keys that name one worker the newer one counts."""
    record: Record | None = None
    """None for a wish, and for a value that is bad and has no good predecessor."""


class Index:
    """All keys of one list and of the events since."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._entries: dict[str, Entry] = {}
        self._by_worker: dict[str, set[str]] = {}
        self._wishes: set[str] = set()

    def __len__(self) -> int:
        """Keys, wishes and bad ones included: what etcd counts."""
        return len(self._entries)

    @property
    def worker_ids(self) -> Collection[str]:
        """Workers that have a key."""
        return self._by_worker

    def __contains__(self, worker_id: str) -> bool:
        return worker_id in self._by_worker

    def entry(self, key: str) -> Entry | None:
        """What stands under a key."""
        return self._entries.get(key)

    def put(self, entry: Entry) -> str | None:
        """Keep an entry; the id of the worker that it is about."""
        self._entries[entry.key] = entry
        if entry.record is not None:
            worker_id = entry.record.worker.worker_id
            self._by_worker.setdefault(worker_id, set()).add(entry.key)
            return worker_id
        wished = self._keys.wished(entry.key)
        if wished is not None:
            self._wishes.add(wished)
        return wished

    def remove(self, key: str) -> str | None:
        """Forget a key; the id of the worker that it was about."""
        entry = self._entries.pop(key, None)
        wished = self._keys.wished(key)
        if wished is not None:
            self._wishes.discard(wished)
            return wished
        if entry is None or entry.record is None:
            return None
        worker_id = entry.record.worker.worker_id
        keys = self._by_worker[worker_id]
        keys.discard(key)
        if not keys:
            del self._by_worker[worker_id]
        return worker_id

    def record(self, worker_id: str) -> Record | None:
        """What the registry says of a worker, wishes included; None if it has no key."""
        entries = [self._entries[key] for key in self._by_worker.get(worker_id, ())]
        if not entries:
            return None
        newest = max(entries, key=lambda entry: entry.revision) if len(entries) > 1 else entries[0]
        found = newest.record
        if found is None or worker_id not in self._wishes or found.worker.state is State.DRAINING:
            return found
        return Record(replace(found.worker, state=State.DRAINING), found.value)
