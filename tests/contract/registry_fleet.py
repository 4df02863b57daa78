"""What the registry's tests share: a fleet's records, a watcher under test, and patience with a deadline."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from proxy.clock import SystemClock, sleep
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


async def until(true: Callable[[], object], within_s: float = 15.0) -> float:
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
    synced: bool = True,
) -> AsyncIterator[Watcher]:
    """A watcher at work; at first it is waited for, unless not `synced`."""
    async with Etcd(etcd_rules) as etcd:
        watcher = Watcher(
            etcd,
            KEYS,
            seen,
            answers,
            clock=SystemClock(),
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
def loop_blocks() -> Iterator[list[float]]:
    """Seconds that the loop was late for a 1 ms timer, while the block runs; for the loop that runs it."""
    loop = asyncio.get_running_loop()
    late_s: list[float] = []
    due_s = loop.time() + 0.001
    handle: asyncio.TimerHandle

    def tick() -> None:
        nonlocal due_s, handle
        late_s.append(loop.time() - due_s)
        due_s = loop.time() + 0.001
        handle = loop.call_at(due_s, tick)

    handle = loop.call_at(due_s, tick)
    try:
        yield late_s
    finally:
        handle.cancel()
