"""The watch rules against a real etcd: nothing lost, nothing twice, nothing invented."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from itertools import pairwise

import pytest

from proxy.clock import sleep
from proxy.discovery import record
from proxy.discovery.etcd import Etcd
from proxy.roster import Role, State
from tests.contract.registry_fleet import (
    KEYS,
    Seen,
    a_worker,
    put,
    put_all,
    rules,
    running,
    until,
    watching,
)
from tests.support.etcd import Etcd as Server
from tests.support.etcd import etcd_server

__all__ = ["etcd_server"]


async def test_pages_are_of_one_revision_while_writes_go_on(etcd_server: Server) -> None:
    for number in range(40):
        put(etcd_server, a_worker(number))

    async def churn() -> None:
        while True:
            for number in range(40):
                moved = a_worker(number, instance="later")
                await asyncio.to_thread(put, etcd_server, moved)

    async with Etcd(rules([etcd_server])) as etcd, running(churn):
        for _ in range(5):
            keys, revisions = [], set()
            async for page in etcd.pages(KEYS.prefix.encode(), limit=7):
                keys += [kv.key for kv in page.kvs]
                revisions.add(page.header.revision)
                assert all(kv.mod_revision <= page.header.revision for kv in page.kvs)
                await asyncio.sleep(0.01)
            assert len(keys) == len(set(keys)) == 40
            assert len(revisions) == 1


async def test_what_is_there_is_listed_and_what_comes_is_seen(etcd_server: Server) -> None:
    old, new = a_worker(1), a_worker(2, Role.PREFILL)
    put(etcd_server, old)
    seen = Seen()
    async with watching(rules([etcd_server]), seen) as watcher:
        await until(lambda: seen.workers == {old.worker_id: old})
        put(etcd_server, new)
        await until(lambda: seen.workers.get(new.worker_id) == new)
        assert watcher.workers == 2
        assert watcher.age_s(watcher._clock.monotonic()) < 5


async def test_a_deleted_key_takes_the_worker_away(etcd_server: Server) -> None:
    worker = a_worker(1)
    put(etcd_server, worker)
    seen = Seen()
    async with watching(rules([etcd_server]), seen):
        await until(lambda: seen.workers)
        etcd_server.delete(KEYS.worker(worker))
        await until(lambda: not seen.workers)


async def test_a_wish_drains_a_worker_and_its_end_brings_it_back(etcd_server: Server) -> None:
    worker = a_worker(1)
    put(etcd_server, worker)
    seen = Seen()
    async with watching(rules([etcd_server]), seen):
        await until(lambda: seen.workers)
        etcd_server.put(KEYS.wish(worker.worker_id), b"node is to be repaired")
        await until(lambda: seen.workers[worker.worker_id].state is State.DRAINING)
        etcd_server.delete(KEYS.wish(worker.worker_id))
        await until(lambda: seen.workers[worker.worker_id].state is State.READY)


async def test_a_wish_older_than_the_proxy_is_seen_in_the_list(etcd_server: Server) -> None:
    worker = a_worker(1)
    put(etcd_server, worker)
    etcd_server.put(KEYS.wish(worker.worker_id), b"")
    seen = Seen()
    async with watching(rules([etcd_server]), seen):
        await until(lambda: seen.workers)
        assert [change.worker for change in seen.changes] == [replace(worker, state=State.DRAINING)]


async def test_a_bad_value_keeps_the_one_before_and_is_counted(etcd_server: Server) -> None:
    worker, other = a_worker(1), a_worker(2)
    put(etcd_server, worker)
    seen = Seen()
    async with watching(rules([etcd_server]), seen) as watcher:
        await until(lambda: seen.workers)
        etcd_server.put(KEYS.worker(worker), b'{"url": 3}')
        put(etcd_server, other)
        await until(lambda: other.worker_id in seen.workers)
        assert seen.workers[worker.worker_id] == worker
        assert watcher.bad_values == 1


async def test_the_watch_goes_on_without_loss_over_a_killed_etcd(etcd_server: Server) -> None:
    first, gone, later = a_worker(1), a_worker(2), a_worker(3)
    put(etcd_server, first)
    put(etcd_server, gone)
    seen = Seen()
    async with watching(rules([etcd_server]), seen) as watcher:
        await until(lambda: len(seen.workers) == 2)
        etcd_server.kill()
        await until(lambda: not watcher.connected)
        assert len(seen.workers) == 2, "while etcd is away the last set stays"
        told = len(seen.changes)
        await etcd_server.restart()
        put(etcd_server, later)
        etcd_server.delete(KEYS.worker(gone))
        await until(lambda: seen.workers == {w.worker_id: w for w in (first, later)})
        assert watcher.connected
        assert watcher.relists == 0
        assert watcher.reconnects >= 1
        assert len(seen.changes) == told + 2, "nothing is told twice"


async def test_after_a_compaction_only_real_changes_are_told(etcd_server: Server) -> None:
    same, gone, changed = a_worker(1), a_worker(2), a_worker(3)
    for worker in (same, gone, changed):
        put(etcd_server, worker)
    seen = Seen()
    async with watching(rules([etcd_server]), seen) as watcher:
        await until(lambda: len(seen.workers) == 3)
        told = len(seen.changes)
        # The watcher sleeps through all this, for it shares the test's loop.
        etcd_server.kill()
        etcd_server.launch()
        etcd_server.wait_ready()
        new = replace(changed, instance="i2")
        etcd_server.delete(KEYS.worker(gone))
        put(etcd_server, same)  # written again, the same
        revision = put(etcd_server, new)
        etcd_server.call("/v3/kv/compaction", {"revision": revision})
        await until(lambda: watcher.relists == 1 and watcher.connected)
        assert seen.workers == {same.worker_id: same, new.worker_id: new}
        assert {change.worker_id for change in seen.changes[told:]} == {gone.worker_id, new.worker_id}


async def test_a_lower_revision_is_another_etcd_and_listed_again(etcd_server: Server) -> None:
    """As many keys as before, and of the same cluster's name: only the revision tells."""
    put(etcd_server, a_worker(1))
    for _ in range(20):
        etcd_server.put("/elsewhere", b"")
    seen = Seen()
    async with watching(rules([etcd_server]), seen) as watcher:
        await until(lambda: seen.workers)
        was = watcher.revision
        # The watcher sleeps through all this, for it shares the test's loop.
        etcd_server.kill()
        shutil.rmtree(etcd_server.data_dir)
        etcd_server.launch()
        etcd_server.wait_ready()
        other = a_worker(9)
        assert put(etcd_server, other) < was
        await until(lambda: set(seen.workers) == {other.worker_id})
        assert watcher.relists == 1
        assert watcher.revision < was


async def test_a_transaction_of_many_keys_is_seen_whole(etcd_server: Server) -> None:
    workers = [a_worker(number) for number in range(100)]
    seen = Seen()
    async with watching(rules([etcd_server]), seen):
        puts = [
            {"request_put": {"key": KEYS.worker(worker).encode(), "value": record.write(worker)}}
            for worker in workers
        ]
        etcd_server.call("/v3/kv/txn", {"compare": [], "success": puts})
        await until(lambda: len(seen.workers) == 100)
        assert [change.worker for change in seen.changes] == workers, "in etcd's order, each once"


async def test_a_big_list_leaves_turns_to_others_while_it_is_read_and_while_it_is_told(
    etcd_server: Server,
) -> None:
    fleet = [a_worker(number) for number in range(1500)]
    await asyncio.to_thread(put_all, etcd_server, fleet)
    seen = Seen()
    told_at_turn = []

    async def turn(delay_s: float) -> None:
        told_at_turn.append(len(seen.changes))
        await sleep(delay_s)

    async with watching(rules([etcd_server]), seen, sleep=turn):
        await until(lambda: len(seen.workers) == 1500)
        assert told_at_turn.count(0) >= 15, "no more than a hundred are read between two turns"
        etcd_server.delete(KEYS.workers, prefix=True)
        await until(lambda: not seen.workers)
    assert all(later - earlier <= 100 for earlier, later in pairwise(told_at_turn))


@pytest.mark.timeout(30)
async def test_an_etcd_that_comes_late_is_found(etcd_server: Server) -> None:
    etcd_server.stop()
    seen = Seen()
    async with watching(rules([etcd_server]), seen, synced=False) as watcher:
        await asyncio.sleep(0.3)
        assert not watcher.synced
        await etcd_server.restart()
        put(etcd_server, a_worker(1))
        await until(lambda: seen.workers)
        assert watcher.synced
