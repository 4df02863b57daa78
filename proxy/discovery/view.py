"""The view: what the registry's keys say, as the workers that the proxy has been told of.

Pure: no waiting. Keys go in, by whole lists and by single events; changes come out, only real ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import structlog

from proxy.discovery.guard import Guard, Pool, pool_of
from proxy.discovery.index import Entry, Index
from proxy.discovery.record import BadRecord, Keys, Record
from proxy.discovery.slices import in_slices
from proxy.roster import Change, Worker

log = structlog.get_logger(__name__)


class View:
    """Sole owner of what was last read from the registry and of what the proxy was told.

    Whatever is told is told by a change that is returned or yielded at once: who hands each on before
    asking for the next may stop anywhere, and the next whole list makes good for what was left out.
    """

    def __init__(self, keys: Keys, guard: Guard) -> None:
        self._keys = keys
        self._guard = guard
        self._index = Index(keys)
        self._told: dict[str, Record] = {}
        self._pools: Counter[Pool] = Counter()
        self.listed = False
        """A whole list has been taken over."""
        self.version = 0
        """Another one whenever `records` are others."""
        self.bad_values = 0
        """Bad keys and values seen so far."""

    def __len__(self) -> int:
        """Workers that the proxy was told of and that have not gone."""
        return len(self._told)

    @property
    def records(self) -> Iterable[Record]:
        """What the proxy was told, each with the value that it was read from."""
        return self._told.values()

    @property
    def size(self) -> int:
        """Keys under the prefix, wishes and bad ones included: what etcd counts."""
        return len(self._index)

    def empty_index(self) -> Index:
        """One for a list to be read into, beside the one that counts."""
        return Index(self._keys)

    def read(self, key: str, value: bytes, revision: int) -> Entry:
        """One key as an entry.

        A value that has not changed is not decoded again; a bad one is counted and logged, and stands for
        what the key said before.
        """
        known = self._index.entry(key)
        if known is not None and known.value == value:
            return known if known.revision == revision else replace(known, revision=revision)
        if not key.startswith(self._keys.workers):
            return Entry(key, value, revision)
        try:
            return Entry(key, value, revision, Record(self._keys.read(key, value), value))
        except BadRecord as error:
            self.bad_values += 1
            log.warning("registry: a bad record; what the key said before stays", error=error.message)
            return Entry(key, value, revision, known.record if known else None)

    def seed(self, records: Sequence[Record]) -> Iterator[list[Change]]:
        """Start from a snapshot, in slices, until the first whole list comes, which replaces it."""
        for some in in_slices(records):
            if self.listed:
                return
            yield self.update([Entry(self._keys.worker(one.worker), b"", 0, one) for one in some], now_s=0.0)

    def replace_all(self, fresh: Index, now_s: float) -> Iterator[list[Change]]:
        """Take a whole list for what there is; the difference is what changed, in slices.

        The list counts from the first slice on, whole; deletions come last and are judged together.
        """
        self._index = fresh
        self.listed = True
        gone: list[Worker] = []
        for some in in_slices([*dict.fromkeys((*self._told, *fresh.worker_ids))]):
            yield self._settle(some, gone)
        emptied = not fresh.worker_ids
        yield from map(self._tell_all, in_slices(self._judge(gone, now_s, emptied=emptied)))

    def update(self, events: Iterable[Entry | str], now_s: float) -> list[Change]:
        """Take events in their order: an entry for a put, a key for a delete."""
        touched: dict[str, None] = {}
        for event in events:
            worker_id = self._index.remove(event) if isinstance(event, str) else self._index.put(event)
            if worker_id is not None:
                touched[worker_id] = None
        gone: list[Worker] = []
        return self._settle(touched, gone) + self._tell_all(self._judge(gone, now_s))

    def release(self, now_s: float, *, reachable: bool) -> list[Change]:
        """Let go of workers whose deletion is to be believed by now."""
        due = self._guard.due(now_s, reachable=reachable)
        return [self._tell(worker_id, None) for worker_id in due if worker_id not in self._index]

    def _settle(self, worker_ids: Iterable[str], gone: list[Worker]) -> list[Change]:
        """Tell what differs from what was told; those whose keys are gone are added to `gone`, untold."""
        changes = []
        for worker_id in worker_ids:
            wanted, told = self._index.record(worker_id), self._told.get(worker_id)
            if wanted is not None:
                self._guard.returned(worker_id)
                if told is None or _differ(wanted.worker, told.worker):
                    changes.append(self._tell(worker_id, wanted))
                elif wanted.value != told.value:  # the same to us, with another unknown field
                    self._told[worker_id] = wanted
                    self.version += 1
            elif told is not None and not self._guard.holds(worker_id):
                gone.append(told.worker)
        return changes

    def _judge(
        self, gone: Sequence[Worker], now_s: float, *, emptied: bool = False
    ) -> list[tuple[str, Record | None]]:
        """What to tell about workers whose keys are gone, as far as that is believed."""
        if not gone:
            return []
        verdict = self._guard.judge(gone, self._pools, now_s, emptied=emptied)
        if self._guard.held:
            log.warning(
                "registry: many workers deleted at once, disbelieved while they answer",
                deleted=len(gone),
                held=self._guard.held,
                brought_back=len(verdict.revived),
            )
        return [
            *((worker_id, None) for worker_id in verdict.believed),
            *((worker.worker_id, Record(worker)) for worker in verdict.revived),
        ]

    def _tell_all(self, news: Iterable[tuple[str, Record | None]]) -> list[Change]:
        return [self._tell(worker_id, record) for worker_id, record in news]

    def _tell(self, worker_id: str, record: Record | None) -> Change:
        self.version += 1
        before = self._told.pop(worker_id, None)
        if before is not None:
            self._pools[pool_of(before.worker)] -= 1
        if record is None:
            return Change(worker_id, None)
        self._told[worker_id] = record
        self._pools[pool_of(record.worker)] += 1
        return Change(worker_id, record.worker)


def _differ(wanted: Worker, told: Worker) -> bool:
    return wanted is not told and (wanted != told or wanted.origin is not told.origin)
