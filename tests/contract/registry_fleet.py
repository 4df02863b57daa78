"""What the registry's tests share: a fleet's records, a watcher under test, and patience with a deadline."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from proxy.clock import Clock, Sleep, SystemClock, sleep
from proxy.discovery import record
from proxy.discovery.etcd import Etcd, EtcdRules
from proxy.discovery.record import Keys
from proxy.discovery.snapshot import SnapshotFile
from proxy.discovery.watcher import Watcher
from proxy.roster import Change, Role, Worker
from tests.support.etcd import Etcd as Server

KEYS = Keys("pd")


class Seen:
    """What a proxy would know from the changes that it was told."""

    def __init__(self) -> None:
        self.workers: dict[str, Worker] = {}
        self.changes: list[Change] = []
        self.at_s: dict[str, float] = {}

    def __call__(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self.changes.append(change)
            self.at_s[change.worker_id] = time.perf_counter()
            if change.worker is None:
                del self.workers[change.worker_id]
            else:
                self.workers[change.worker_id] = change.worker


class SkippingClock:
    """The system's clock, of which a test may skip a part."""

    def __init__(self) -> None:
        self.skipped_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.skipped_s

    def time(self) -> float:
        return time.time() + self.skipped_s


def a_worker(number: int, role: Role = Role.DECODE, instance: str = "i1", **more: object) -> Worker:
    """A worker as a real one registers it."""
    fields: dict[str, object] = {
        "worker_id": f"{role}-10.0.0.{number}-30000",
        "url": f"http://10.0.{number // 250}.{number % 250}:30000",
        "role": role,
        "model": "org/model",
        "bootstrap_port": 8998 if role is Role.PREFILL else None,
        "engine": "sglang",
        "engine_version": "0.5.2",
        "tp_size": 8,
        "max_running_requests": 512,
        "node": f"node{number}",
        "instance": instance,
        "labels": {"zone": "a"},
    }
    return Worker(**(fields | more))  # type: ignore[arg-type]


def put(server: Server, worker: Worker, lease: int = 0) -> int:
    """Write a worker's record as it is; the store's revision after it."""
    return server.put(KEYS.worker(worker), record.write(worker), lease)


def grant(server: Server, ttl_s: int) -> int:
    """A lease."""
    return int(server.call("/v3/lease/grant", {"TTL": ttl_s})["ID"])


def put_all(server: Server, workers: Sequence[Worker], lease: int = 0) -> None:
    """Write many workers' records, in as few transactions as etcd takes (of at most 128 operations)."""
    for start in range(0, len(workers), 100):
        puts = [
            {"request_put": {"key": KEYS.worker(w).encode(), "value": record.write(w), "lease": lease}}
            for w in workers[start : start + 100]
        ]
        server.call("/v3/kv/txn", {"compare": [], "success": puts})


async def until(true: Callable[[], object], within_s: float = 30.0) -> float:
    """Wait for something; the seconds it took.

    Raises:
        TimeoutError: it did not happen.
    """
    start_s = time.perf_counter()
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.005)
    return time.perf_counter() - start_s


def rules(servers: Sequence[Server], **more: object) -> EtcdRules:
    """Rules for these servers."""
    return EtcdRules(tuple(server.url for server in servers), **more)  # type: ignore[arg-type]


@asynccontextmanager
async def running(*jobs: Callable[[], Coroutine[None, None, None]]) -> AsyncIterator[None]:
    """Run coroutines beside the block, and cancel them at its end."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(job()) for job in jobs]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


@asynccontextmanager
async def watching(
    etcd_rules: EtcdRules,
    seen: Seen,
    *,
    answers: Callable[[str], bool] = lambda worker_id: False,
    snapshot: SnapshotFile | None = None,
    hold_s: float = 60.0,
    clock: Clock | None = None,
    sleep: Sleep = sleep,
    synced: bool = True,
) -> AsyncIterator[Watcher]:
    """A watcher at work; at first it is waited for, unless not `synced`."""
    async with Etcd(etcd_rules) as etcd:
        watcher = Watcher(
            etcd,
            KEYS,
            seen,
            answers,
            clock=clock or SystemClock(),
            sleep=sleep,
            rng=random.Random(1),
            snapshot=snapshot,
            hold_s=hold_s,
        )
        async with running(watcher.run):
            if synced:
                await until(lambda: watcher.synced and watcher.connected)
            yield watcher


@contextmanager
def loop_work() -> Iterator[list[float]]:
    """CPU seconds of the loop's thread between two looks, a millisecond apart or a turn of the loop.

    The largest is what a turn held everybody else up for, on a machine that does nothing else: how long
    this thread waited for its processor does not count. For the loop that runs the block.
    """
    gc.collect()
    gc.freeze()  # as the proxy does after its start: the test run's own objects are not looked through
    loop = asyncio.get_running_loop()
    worked_s: list[float] = [0.0]
    at_s = time.thread_time()
    handle: asyncio.TimerHandle

    def look() -> None:
        nonlocal at_s, handle
        now_s = time.thread_time()
        worked_s.append(now_s - at_s)
        at_s = now_s
        handle = loop.call_later(0.001, look)

    handle = loop.call_later(0.001, look)
    try:
        yield worked_s
    finally:
        handle.cancel()
        gc.unfreeze()
