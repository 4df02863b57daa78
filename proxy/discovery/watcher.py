"""The watcher: keeps the proxy's workers what the registry says, through all that can happen to etcd."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import NoReturn

import structlog

from proxy.clock import Clock, Sleep
from proxy.discovery import wire
from proxy.discovery.cold_start import ColdStart
from proxy.discovery.etcd import Etcd
from proxy.discovery.guard import Guard
from proxy.discovery.index import Entry
from proxy.discovery.outbox import Outbox
from proxy.discovery.record import Keys
from proxy.discovery.slices import in_slices
from proxy.discovery.snapshot import SnapshotFile
from proxy.discovery.view import View
from proxy.discovery.watch import Compacted, watch
from proxy.errors import RegistryError
from proxy.roster import Change

log = structlog.get_logger(__name__)

PROBE_EVERY_S = 1.5
"""why: with a call's 3 s, a hung member is left after 4.5 s at most."""
_BACKOFF_S = (0.1, 3.0)
_LEASE_S = 10.0
"""What a lease of 15 s that is renewed every 5 s has left at least when etcd goes away."""
_TEND_EVERY_S = 1.0


class Relist(RegistryError):
    """What we know cannot be gone on from: another or a restored cluster, or a watch gone deaf."""


class Watcher:
    """Lists, watches, resumes; reports changes by callback and its own state by attributes.

    `run` never ends by itself and never raises for etcd's failures: while etcd is away the last set stays.
    Workers with a wish to drain are reported in state DRAINING.
    """

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        on_changes: Callable[[Sequence[Change]], None],
        answers: Callable[[str], bool],
        *,
        clock: Clock,
        sleep: Sleep,
        rng: random.Random,
        snapshot: SnapshotFile | None = None,
        hold_s: float = 60.0,
    ) -> None:
        """Make one.

        Args:
            etcd: the client; stays the caller's to close.
            keys: the keys under the registry's root.
            on_changes: called in the loop, in order, with at most a few hundred changes at a time.
            answers: whether a worker was seen well lately; see `Guard`.
            clock: time.
            sleep: waiting.
            rng: chance, for the backoff.
            snapshot: the file for cold starts; none is kept when None.
            hold_s: how long a mass deletion is disbelieved.
        """
        self._etcd = etcd
        self._prefix = keys.prefix.encode()
        self._clock = clock
        self._sleep = sleep
        self._rng = rng
        self._guard = Guard(answers, hold_s=hold_s)
        self._view = View(keys, self._guard)
        self._cold_start = None if snapshot is None else ColdStart(snapshot, self._view, clock)
        self._outbox = Outbox(on_changes, sleep)
        self._heard = asyncio.Event()  # etcd has answered, or has failed, for the first time
        self._confirmed_at_s = -math.inf
        self._failures = 0
        self._cluster = 0
        self._elsewhere = False  # what is listed next may be another etcd's word
        self.connected = False
        """A watch is open and alive."""
        self.synced = False
        """A complete list has been seen; stays so while etcd is away."""
        self.revision = 0
        """All that happened up to here is in what was reported."""
        self.reconnects = 0
        self.relists = 0
        """Lists after the first."""

    @property
    def workers(self) -> int:
        """Workers that were reported and have not gone."""
        return len(self._view)

    @property
    def bad_values(self) -> int:
        """Records that broke the contract, so far."""
        return self._view.bad_values

    @property
    def held(self) -> int:
        """Deletions disbelieved now."""
        return self._guard.held

    def age_s(self, now_s: float) -> float:
        """Seconds since etcd last confirmed our view; infinite before it first did."""
        return now_s - self._confirmed_at_s

    async def run(self) -> None:
        """Follow the registry until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(), name="registry-follow")
            group.create_task(self._tend(), name="registry-tend")
            if self._cold_start is not None:
                group.create_task(
                    self._cold_start.begin(self._heard, self._report), name="registry-cold-start"
                )

    async def _follow(self) -> None:
        """List when we must, watch as long as it goes, go on elsewhere."""
        while True:
            endpoint = self._etcd.serving
            try:
                if self.revision == 0:
                    await self._list()
                await self._follow_from(self._etcd.serving)
            except (Compacted, Relist) as error:
                log.warning("registry: listing again", reason=error.message, revision=self.revision)
                self.revision = 0
                self._elsewhere = isinstance(error, Relist)
                await self._after_failure(None)
            except RegistryError as error:
                log.warning("registry: connection lost", error=error.message, failures=self._failures)
                await self._after_failure(endpoint)
            except Exception:
                log.exception("registry: a bug; listing again")
                self.revision = 0
                await self._after_failure(endpoint)

    async def _after_failure(self, endpoint: str | None) -> None:
        """Try the next endpoint, at once the first time, then later and later."""
        if self.connected:
            self.reconnects += 1
        self.connected = False
        self._heard.set()
        if endpoint is not None:
            self._etcd.leave(endpoint)
        self._failures += 1
        if self._failures > 1:
            first_s, most_s = _BACKOFF_S
            ceiling_s = min(most_s, first_s * 2 ** min(self._failures - 2, 10))
            await self._sleep(self._rng.uniform(ceiling_s / 2, ceiling_s))

    async def _list(self) -> None:
        """Read all keys at one revision, and report the difference to what we knew.

        The revision moves last: cut off in between, the list is read again and what was left out is told.
        """
        fresh = self._view.empty_index()
        header = wire.Header()
        async with aclosing(self._etcd.pages(self._prefix)) as pages:
            async for page in pages:
                header = page.header
                for kvs in in_slices(page.kvs):
                    for kv in kvs:
                        fresh.put(self._entry(kv))
                    await self._sleep(0)
        if self.synced:
            self.relists += 1
        self._mind_the_gap()
        told = 0
        for changes in self._view.replace_all(fresh, self._clock.monotonic()):
            told += len(changes)
            await self._report(changes)
        self.revision = header.revision
        self._cluster = header.cluster_id
        self.synced = True
        self._elsewhere = False
        self._heard.set()
        self._confirm()
        log.info("registry: listed", keys=len(fresh), changes=told, revision=self.revision)

    async def _follow_from(self, endpoint: str) -> NoReturn:
        """Watch at one endpoint, and ask it beside the stream whether it lives. Always ends in an error."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(endpoint), name="registry-watch")
                group.create_task(self._probe(endpoint), name="registry-probe")
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        raise AssertionError("a watch ended without an error")

    async def _read(self, endpoint: str) -> None:
        async with aclosing(watch(self._etcd, self._prefix, self.revision + 1, endpoint)) as answers:
            async for answer in answers:
                self._check_cluster(answer.header, endpoint)
                if answer.created:
                    self._on_open(endpoint)
                elif answer.events:
                    await self._take(answer.events)
                else:  # a progress notify: nothing of ours has happened up to there
                    self.revision = max(self.revision, answer.header.revision)
                self._confirm()

    def _on_open(self, endpoint: str) -> None:
        if not self.connected:
            self._mind_the_gap()
            self._guard.extend(self._clock.monotonic())
            log.info("registry: watching", endpoint=endpoint, revision=self.revision)
        self.connected = True
        self._failures = 0

    def _mind_the_gap(self) -> None:
        """After a time in which leases could run out, or at another etcd, what is missing proves little."""
        now_s = self._clock.monotonic()
        if self.workers and (self._elsewhere or self.age_s(now_s) >= _LEASE_S):
            self._guard.be_wary(now_s)

    async def _take(self, events: Sequence[wire.Event]) -> None:
        """Apply and report the events of one answer.

        The revision moves last: cut off in between, the same events come again and change nothing.
        """
        known = self.revision
        for news in in_slices([event for event in events if event.kv.mod_revision > known]):
            await self._report(self._view.update(map(self._event, news), self._clock.monotonic()))
        self.revision = max(known, events[-1].kv.mod_revision)

    def _event(self, event: wire.Event) -> Entry | str:
        return _key(event.kv) if event.type == "DELETE" else self._entry(event.kv)

    def _entry(self, kv: wire.KeyValue) -> Entry:
        return self._view.read(_key(kv), kv.value, kv.mod_revision)

    async def _probe(self, endpoint: str) -> NoReturn:
        """Ask the watch's own endpoint again and again, through its leader; a silent one is left.

        A stream can also go deaf alone, behind a middlebox: then etcd counts other keys than we do, twice
        running, and nothing arrives.
        """
        deaf_at: tuple[int, int] | None = None
        while True:
            known = self.revision  # read BEFORE asking: an event may overtake the answer
            answer = await self._etcd.range(
                self._prefix, wire.prefix_end(self._prefix), count_only=True, endpoint=endpoint
            )
            self._check_cluster(answer.header, endpoint)
            if answer.header.revision < known:
                raise Relist(
                    f"etcd {endpoint} is at revision {answer.header.revision}, we have seen {known}: "
                    "another or a restored cluster"
                )
            differs = (self._view.size, self.revision) if answer.count != self._view.size else None
            if differs is not None and differs == deaf_at:
                raise Relist(
                    f"etcd {endpoint} has {answer.count} keys, we know {self._view.size}: watch is deaf"
                )
            deaf_at = differs
            if self.connected and differs is None:
                self._confirm()
            await self._sleep(PROBE_EVERY_S)

    def _check_cluster(self, header: wire.Header, endpoint: str) -> None:
        if header.cluster_id != self._cluster:
            raise Relist(f"etcd {endpoint} is of cluster {header.cluster_id:x}, not {self._cluster:x}")

    def _confirm(self) -> None:
        self._confirmed_at_s = self._clock.monotonic()

    async def _report(self, changes: Sequence[Change]) -> None:
        """Hand a slice of changes on; everybody else's turn comes after it."""
        await self._outbox.send(changes)
        await self._sleep(0)

    async def _tend(self) -> None:
        """Once a second: let go of held workers, keep the snapshot fresh."""
        while True:
            await self._sleep(_TEND_EVERY_S)
            try:
                await self._report(self._view.release(self._clock.monotonic(), reachable=self.connected))
                if self._cold_start is not None:
                    await self._cold_start.save()
            except Exception:
                log.exception("registry: a bug; going on")


def _key(kv: wire.KeyValue) -> str:
    """What is no UTF-8 is kept: it is a bad key, but etcd counts it."""
    return kv.key.decode(errors="surrogateescape")
