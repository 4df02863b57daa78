"""The registry's figures, measured and printed (`pytest -s`), with bounds that a busy machine can keep."""

from __future__ import annotations

import asyncio
import random
import statistics
import time

import pytest

from proxy.clock import SystemClock, sleep
from proxy.discovery import record
from proxy.discovery.etcd import Etcd
from tests.contract.registry_fleet import (
    KEYS,
    Seen,
    a_worker,
    grant,
    loop_blocks,
    rules,
    running,
    until,
    watching,
)
from tests.support.etcd import Etcd as Server
from tests.support.etcd import etcd_server
from workers.registration import Registration

__all__ = ["etcd_server"]


def _quantiles(seconds: list[float]) -> tuple[float, float]:
    return statistics.median(seconds) * 1e3, statistics.quantiles(seconds, n=100)[98] * 1e3


async def test_put_to_visible_and_revoke_to_gone(etcd_server: Server) -> None:
    seen = Seen()
    put_s, gone_s = [], []
    async with watching(rules([etcd_server]), seen), Etcd(rules([etcd_server])) as etcd:
        for number in range(300):
            worker = a_worker(number)
            lease = await etcd.grant(60)
            put_request = {"key": KEYS.worker(worker).encode(), "value": record.write(worker), "lease": lease}
            start_s = time.perf_counter()
            await etcd.txn([], [{"request_put": put_request}])
            await until(lambda: worker.worker_id in seen.workers)  # noqa: B023
            put_s.append(seen.at_s[worker.worker_id] - start_s)
            if number % 10 == 0:
                start_s = time.perf_counter()
                await etcd.revoke(lease)
                await until(lambda: worker.worker_id not in seen.workers)  # noqa: B023
                gone_s.append(seen.at_s[worker.worker_id] - start_s)
    put_p50, put_p99 = _quantiles(put_s)
    gone_p50, gone_p99 = _quantiles(gone_s)
    print(f"\nput to visible: p50 {put_p50:.1f} ms, p99 {put_p99:.1f} ms (bar 4, 10)")
    print(f"revoke to gone: p50 {gone_p50:.1f} ms, p99 {gone_p99:.1f} ms (bar 4)")
    assert put_p99 < 100
    assert gone_p50 < 50


async def test_a_thousand_registrations(etcd_server: Server) -> None:
    seen = Seen()
    async with watching(rules([etcd_server]), seen), Etcd(rules([etcd_server])) as etcd:
        fleet = [
            Registration(etcd, KEYS, a_worker(n), clock=SystemClock(), sleep=sleep, rng=random.Random(n))
            for n in range(1000)
        ]
        async with running(*(one.run for one in fleet)):
            took_s = await until(lambda: len(seen.workers) == 1000, 40)
            print(f"\n1,000 registrations registered and seen: {took_s:.2f} s (bar 2 s)")
            assert took_s < 20


@pytest.mark.timeout(120)
async def test_five_thousand_workers_do_not_hold_the_loop(etcd_server: Server) -> None:
    fleet = [a_worker(number) for number in range(5000)]
    lease = grant(etcd_server, 600)
    for start in range(0, 5000, 100):
        puts = [
            {"request_put": {"key": KEYS.worker(w).encode(), "value": record.write(w), "lease": lease}}
            for w in fleet[start : start + 100]
        ]
        etcd_server.call("/v3/kv/txn", {"compare": [], "success": puts})
    seen = Seen()
    with loop_blocks() as late_s:
        async with watching(rules([etcd_server]), seen, synced=False):
            listed_s = await until(lambda: len(seen.workers) == 5000, 60)
            listed_block_ms = max(late_s) * 1e3
            late_s.clear()
            await asyncio.to_thread(etcd_server.call, "/v3/lease/revoke", {"ID": lease})
            await until(lambda: not seen.workers, 60)
            gone_block_ms = max(late_s) * 1e3
    print(
        f"\n5,000 keys: listed and told in {listed_s:.2f} s (bar 0.1 s listed), "
        f"loop blocked at most {listed_block_ms:.0f} ms by the list, {gone_block_ms:.0f} ms by 5,000 "
        "deletions in one answer (bar 30 ms)"
    )
    assert listed_block_ms < 100
    assert gone_block_ms < 200
