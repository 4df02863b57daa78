"""The view: what the registry's keys say, as the workers that the proxy has been told of.

Pure: no waiting. Keys go in, by whole lists and by single events; changes come out, only real ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import structlog

from proxy.discovery.guard import Guard, Pool, pool_of
from proxy.discovery.record import BadRecord, Keys
from proxy.roster import Change, State, Worker

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One key as it stands in the registry."""

    key: str
    value: bytes
    revision: int
    """Of its last change; of two keys that name one worker the newer one counts."""
    worker: Worker | None = None
    """None for a wish, and for a value that is bad and has no good predecessor."""


class View:
    """Sole owner of what was last read from the registry and of what the proxy was told."""

    def __init__(self, keys: Keys, guard: Guard) -> None:
        self._keys = keys
        self._guard = guard
        self._entries: dict[str, Entry] = {}
        self._by_worker: dict[str, set[str]] = {}
        self._wishes: set[str] = set()
        self._told: dict[str, Worker] = {}
        self._pools: Counter[Pool] = Counter()
        self.bad_values = 0
        """Bad keys and values seen so far."""

    @property
    def workers(self) -> Mapping[str, Worker]:
        """What the proxy was told, by worker id."""
        return self._told

    @property
    def size(self) -> int:
        """Keys under the prefix, wishes and bad ones included: what etcd counts."""
        return len(self._entries)

    def read(self, key: str, value: bytes, revision: int) -> Entry:
        """One key as an entry.

        A value that has not changed is not decoded again; a bad one is counted and logged, and stands for
        what the key said before.
        """
        known = self._entries.get(key)
        if known is not None and known.value == value:
            return known if known.revision == revision else replace(known, revision=revision)
        if not key.startswith(self._keys.workers):
            return Entry(key, value, revision)
        try:
            return Entry(key, value, revision, self._keys.read(key, value))
        except BadRecord as error:
            self.bad_values += 1
            log.warning("registry: a bad record; what the key said before stays", error=error.message)
            return Entry(key, value, revision, known.worker if known else None)

    def seed(self, workers: Iterable[Worker]) -> list[Change]:
        """Start from a snapshot; the first whole list replaces it."""
        entries = [Entry(self._keys.worker(worker), b"", 0, worker) for worker in workers]
        return self.update(entries, now_s=0.0)

    def replace_all(self, fresh: Mapping[str, Entry], now_s: float) -> list[Change]:
        """Take a whole list for what there is; the difference is what changed."""
        known = len(self._by_worker)
        touched = dict.fromkeys([*self._by_worker, *self._wishes])  # in order, each once
        for key in self._entries.keys() - fresh.keys():
            self._remove(key)
        for entry in fresh.values():
            self._put(entry)
        touched |= dict.fromkeys([*self._by_worker, *self._wishes])
        return self._settle(touched, now_s, emptied=known > 0 and not self._by_worker)

    def update(self, events: Iterable[Entry | str], now_s: float) -> list[Change]:
        """Take events in their order: an entry for a put, a key for a delete."""
        touched: dict[str, None] = {}
        for event in events:
            worker_id = self._remove(event) if isinstance(event, str) else self._put(event)
            if worker_id is not None:
                touched[worker_id] = None
        return self._settle(touched, now_s)

    def release(self, now_s: float, *, reachable: bool) -> list[Change]:
        """Let go of workers whose deletion is to be believed by now."""
        return [self._tell(worker_id, None) for worker_id in self._guard.due(now_s, reachable=reachable)]

    def _put(self, entry: Entry) -> str | None:
        """Keep an entry; the id of the worker that it is about."""
        self._entries[entry.key] = entry
        wished = self._keys.wished(entry.key)
        if wished is not None:
            self._wishes.add(wished)
            return wished
        if entry.worker is None:
            return None
        self._by_worker.setdefault(entry.worker.worker_id, set()).add(entry.key)
        return entry.worker.worker_id

    def _remove(self, key: str) -> str | None:
        """Forget a key; the id of the worker that it was about."""
        entry = self._entries.pop(key, None)
        wished = self._keys.wished(key)
        if wished is not None:
            self._wishes.discard(wished)
            return wished
        if entry is None or entry.worker is None:
            return None
        worker_id = entry.worker.worker_id
        keys = self._by_worker[worker_id]
        keys.discard(key)
        if not keys:
            del self._by_worker[worker_id]
        return worker_id

    def _wanted(self, worker_id: str) -> Worker | None:
        """What the registry says of a worker now, wishes included."""
        entries = [self._entries[key] for key in self._by_worker.get(worker_id, ())]
        if not entries:
            return None
        worker = max(entries, key=lambda entry: entry.revision).worker
        if worker is not None and worker_id in self._wishes and worker.state is not State.DRAINING:
            return replace(worker, state=State.DRAINING)
        return worker

    def _settle(self, worker_ids: Iterable[str], now_s: float, *, emptied: bool = False) -> list[Change]:
        """Compare what is wanted with what was told, and tell the difference as far as it is believed."""
        changes = []
        gone = []
        for worker_id in worker_ids:
            wanted, told = self._wanted(worker_id), self._told.get(worker_id)
            if wanted is not None:
                self._guard.returned(worker_id)
                if told is None or wanted != told or wanted.origin is not told.origin:
                    changes.append(self._tell(worker_id, wanted))
            elif told is not None and not self._guard.holds(worker_id):
                gone.append(told)
        if not gone:
            return changes
        verdict = self._guard.judge(gone, self._pools, now_s, emptied=emptied)
        if self._guard.held:
            log.warning(
                "registry: many workers deleted at once, disbelieved while they answer",
                deleted=len(gone),
                held=self._guard.held,
                brought_back=len(verdict.revived),
            )
        changes += [self._tell(worker_id, None) for worker_id in verdict.believed]
        changes += [self._tell(worker.worker_id, worker) for worker in verdict.revived]
        return changes

    def _tell(self, worker_id: str, worker: Worker | None) -> Change:
        before = self._told.pop(worker_id, None)
        if before is not None:
            self._pools[pool_of(before)] -= 1
        if worker is not None:
            self._told[worker_id] = worker
            self._pools[pool_of(worker)] += 1
        return Change(worker_id, worker)
