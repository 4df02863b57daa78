"""Etcd away, etcd ill, etcd forgetful: the proxy keeps the workers that answer."""

from __future__ import annotations

import asyncio
import random
import shutil
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.clock import SystemClock, sleep
from proxy.discovery.etcd import Etcd
from proxy.discovery.record import Record
from proxy.discovery.snapshot import SnapshotFile
from proxy.roster import Origin, Role, State
from tests.contract.registry_fleet import (
    KEYS,
    Seen,
    SkippingClock,
    a_worker,
    grant,
    put,
    rules,
    running,
    until,
    watching,
)
from tests.support.etcd import Etcd as Server
from tests.support.etcd import etcd_server
from workers.registration import Registration

__all__ = ["etcd_server"]

FLEET = [a_worker(1, Role.PREFILL), a_worker(2, Role.PREFILL), a_worker(3), a_worker(4)]
IDS = {worker.worker_id for worker in FLEET}


def _answer(worker_id: str) -> bool:
    return True


async def test_a_mass_deletion_is_not_believed_while_the_workers_answer(etcd_server: Server) -> None:
    leases = [grant(etcd_server, 60) for _ in FLEET]
    for worker, lease in zip(FLEET, leases, strict=True):
        put(etcd_server, worker, lease)
    seen, clock = Seen(), SkippingClock()
    async with watching(rules([etcd_server]), seen, answers=_answer, clock=clock) as watcher:
        await until(lambda: set(seen.workers) == IDS)
        for lease in leases:  # one by one, as leases that run out
            await asyncio.to_thread(etcd_server.call, "/v3/lease/revoke", {"ID": lease})
        await until(lambda: watcher.held == 4)
        assert set(seen.workers) == IDS, "those that went before it was many are back"
        put(etcd_server, FLEET[0])
        await until(lambda: watcher.held == 3)
        clock.skipped_s = 60.0
        await until(lambda: set(seen.workers) == {FLEET[0].worker_id})


async def test_dead_workers_go_at_once_though_many(etcd_server: Server) -> None:
    for worker in FLEET:
        put(etcd_server, worker)
    seen = Seen()
    async with watching(rules([etcd_server]), seen, answers=lambda worker_id: False) as watcher:
        await until(lambda: set(seen.workers) == IDS)
        etcd_server.delete(KEYS.workers, prefix=True)
        await until(lambda: not seen.workers)
        assert watcher.held == 0


async def test_drained_workers_may_all_go_at_once(etcd_server: Server) -> None:
    for worker in FLEET:
        put(etcd_server, replace(worker, state=State.DRAINING))
    seen = Seen()
    async with watching(rules([etcd_server]), seen, answers=_answer):
        await until(lambda: set(seen.workers) == IDS)
        etcd_server.delete(KEYS.workers, prefix=True)
        await until(lambda: not seen.workers)


async def test_an_etcd_that_comes_back_empty_takes_nobody_who_answers(etcd_server: Server) -> None:
    worker = FLEET[0]
    put(etcd_server, worker)
    seen = Seen()
    async with watching(rules([etcd_server]), seen, answers=_answer) as watcher:
        await until(lambda: seen.workers)
        await etcd_server.restart(empty=True)
        await until(lambda: watcher.relists and watcher.connected and watcher.held == 1)
        assert set(seen.workers) == {worker.worker_id}
        put(etcd_server, worker)
        await until(lambda: watcher.held == 0)
        assert all(change.worker is not None for change in seen.changes), "never told gone"


async def test_the_last_one_missing_in_a_restored_etcd_is_not_the_only_one_that_went(
    etcd_server: Server,
) -> None:
    """All but one have registered again by the time the restored etcd is listed."""
    for worker in FLEET:
        put(etcd_server, worker)
    for _ in range(9):
        etcd_server.put("/elsewhere", b"")
    seen = Seen()
    async with watching(rules([etcd_server]), seen, answers=_answer) as watcher:
        await until(lambda: set(seen.workers) == IDS)
        # The watcher sleeps through all this, for it shares the test's loop.
        etcd_server.kill()
        shutil.rmtree(etcd_server.data_dir)
        etcd_server.launch()
        etcd_server.wait_ready()
        for worker in FLEET[1:]:
            put(etcd_server, worker)
        await until(lambda: watcher.relists and watcher.connected)
        assert set(seen.workers) == IDS
        assert watcher.held == 1


async def test_a_proxy_started_without_etcd_knows_last_times_workers(
    etcd_server: Server, tmp_path: Path
) -> None:
    snapshot = SnapshotFile(tmp_path / "state" / "registry.json", KEYS, SystemClock())
    for worker in FLEET:
        put(etcd_server, worker)
    async with watching(rules([etcd_server]), Seen(), snapshot=snapshot):
        await until(lambda: len(snapshot.load()) == 4)
    etcd_server.stop()
    seen = Seen()
    async with watching(rules([etcd_server]), seen, snapshot=snapshot, synced=False) as watcher:
        await until(lambda: set(seen.workers) == IDS)
        assert {worker.origin for worker in seen.workers.values()} == {Origin.SNAPSHOT}
        assert not watcher.synced
        await etcd_server.restart()
        await until(lambda: {worker.origin for worker in seen.workers.values()} == {Origin.REGISTRY})
        assert set(seen.workers) == IDS
        etcd_server.delete(KEYS.worker(FLEET[0]))
        await until(lambda: FLEET[0].worker_id not in seen.workers)


async def test_a_snapshot_is_not_used_when_etcd_answers(etcd_server: Server, tmp_path: Path) -> None:
    snapshot = SnapshotFile(tmp_path / "registry.json", KEYS, SystemClock())
    snapshot.save([Record(a_worker(9))])
    put(etcd_server, FLEET[0])
    seen = Seen()
    async with watching(rules([etcd_server]), seen, snapshot=snapshot):
        await until(lambda: seen.workers)
        assert [change.worker_id for change in seen.changes] == [FLEET[0].worker_id]


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_etcd_away_for_a_minute_and_all_leases_run_out_takes_nobody(etcd_server: Server) -> None:
    """The leases are gone when etcd is back: it is given an empty directory, as after a lost disk."""
    seen = Seen()
    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(Etcd(rules([etcd_server])))
        fleet = [
            Registration(etcd, KEYS, worker, clock=SystemClock(), sleep=sleep, rng=random.Random(n))
            for n, worker in enumerate(FLEET)
        ]
        await stack.enter_async_context(running(*(one.run for one in fleet)))
        await until(lambda: all(one.registered for one in fleet))
        watcher = await stack.enter_async_context(watching(rules([etcd_server]), seen, answers=_answer))
        await until(lambda: set(seen.workers) == IDS)
        etcd_server.kill()
        await asyncio.sleep(60)
        assert not any(one.registered for one in fleet), "every lease has run out"
        await etcd_server.restart(empty=True)
        await until(lambda: all(one.registered for one in fleet), 20)
        await until(lambda: watcher.connected and watcher.held == 0, 20)
        assert set(seen.workers) == IDS
        assert all(change.worker is not None for change in seen.changes), "no worker was ever told gone"
