"""Users' etcd3-py scripts go on working: what they write is seen, and they read what we write."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from proxy.clock import SystemClock, sleep
from proxy.discovery import record
from proxy.discovery.etcd import Etcd
from tests.contract.registry_fleet import KEYS, Seen, a_worker, rules, running, until, watching
from tests.support.etcd import Etcd as Server
from tests.support.etcd import etcd_server
from workers.registration import Registration

__all__ = ["etcd_server"]


@pytest.fixture
async def script(etcd_server: Server) -> AsyncIterator[Any]:
    """An etcd3-py client, as a script has it (blocking: call it in a thread)."""
    import etcd3  # type: ignore[import-untyped]

    parts = urlsplit(etcd_server.url)
    client = await asyncio.to_thread(etcd3.Client, parts.hostname, parts.port)
    yield client
    client.close()


async def test_what_etcd3_py_puts_is_seen(etcd_server: Server, script: Any) -> None:
    worker = a_worker(1)
    seen = Seen()
    async with watching(rules([etcd_server]), seen):
        await asyncio.to_thread(script.put, KEYS.worker(worker), record.write(worker).decode())
        await until(lambda: seen.workers == {worker.worker_id: worker})
        await asyncio.to_thread(script.delete_range, KEYS.worker(worker))
        await until(lambda: not seen.workers)


async def test_an_etcd3_py_transaction_is_seen(etcd_server: Server, script: Any) -> None:
    workers = [a_worker(1), a_worker(2)]

    def write() -> None:
        txn = script.Txn()
        for worker in workers:
            txn.success(txn.put(KEYS.worker(worker), record.write(worker).decode()))
        txn.commit()

    seen = Seen()
    async with watching(rules([etcd_server]), seen):
        await asyncio.to_thread(write)
        await until(lambda: list(seen.workers.values()) == workers)


async def test_a_key_under_an_etcd3_py_lease_goes_with_it(etcd_server: Server, script: Any) -> None:
    worker = a_worker(1)

    def register() -> Any:
        lease = script.Lease(ttl=60)
        lease.grant()
        script.put(KEYS.worker(worker), record.write(worker).decode(), lease=lease.ID)
        return lease

    seen = Seen()
    async with watching(rules([etcd_server]), seen):
        lease = await asyncio.to_thread(register)
        await until(lambda: seen.workers)
        await asyncio.to_thread(lease.revoke)
        await until(lambda: not seen.workers)


async def test_etcd3_py_reads_what_we_register(etcd_server: Server, script: Any) -> None:
    worker = a_worker(1)
    async with Etcd(rules([etcd_server])) as etcd:
        ours = Registration(
            etcd, KEYS, worker, clock=SystemClock(), sleep=sleep, rng=random.Random(1), ttl_s=5
        )
        async with running(ours.run):
            await until(lambda: ours.registered)
            answer = await asyncio.to_thread(script.range, KEYS.workers, prefix=True)
            (found,) = answer.kvs
            assert KEYS.read(found.key.decode(), found.value) == worker
            assert found.lease
