"""A worker that is asked to leave finishes what runs, takes nothing new, and ends."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from proxy.discovery.record import Keys
from proxy.roster import State
from tests.contract.registry_fleet import until
from tests.support.engines import expected
from tests.support.etcd import Etcd, etcd_server
from tests.support.workers import WorkerProcess, in_registry, make_engine_python, make_weights, start_worker

__all__ = ["etcd_server"]

KEYS = Keys("pd")
SLOW = {"engine": {"decode_ms_per_token": 20}}
ENDLESS = 100_000


@pytest.fixture(scope="module")
def sglang(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sglang")
    return make_engine_python(folder / "python"), make_weights(folder / "model")


async def generated(worker: WorkerProcess, tokens: int) -> str:
    """A request that the engine is busy with for a while, without a peer."""
    body = {
        "text": "hello",
        "sampling_params": {"max_new_tokens": tokens, "ignore_eos": True},
    }
    async with aiohttp.ClientSession() as http, http.post(worker.url + "/generate", json=body) as answer:
        text: str = (await answer.json())["text"]
        return text


def states(server: Etcd) -> list[State]:
    return [worker.state for worker in in_registry(server)]


async def running(worker: WorkerProcess) -> None:
    """Waits until the engine says that it is busy."""
    deadline_s = time.monotonic() + 20
    while True:
        text = (await worker.control("/metrics"))[1]
        if any(
            line.startswith("pd_worker_engine_busy ") and float(line.split()[1]) for line in text.splitlines()
        ):
            return
        assert time.monotonic() < deadline_s, text
        await worker.pause()


def by_signal(worker: WorkerProcess, server: Etcd, worker_id: str) -> None:
    worker.signal(signal.SIGTERM)


def by_wish(worker: WorkerProcess, server: Etcd, worker_id: str) -> None:
    server.put(KEYS.wish(worker_id), b"maintenance")


@pytest.mark.parametrize(("order", "version"), [(by_signal, "0.5.2"), (by_wish, "0.5.23")])
async def test_what_runs_is_finished_while_the_registry_says_draining(
    order: Callable[[WorkerProcess, Etcd, str], None], version: str, etcd_server: Etcd, tmp_path: Path
) -> None:
    python, weights = make_engine_python(tmp_path / "python", version), make_weights(tmp_path / "model")
    more = ["--etcd-endpoints", etcd_server.url, "--registry-ttl-s", "3"]
    async with (
        start_worker(python, weights, "regular", *more, log_dir=tmp_path, behaviour=SLOW) as worker,
        asyncio.TaskGroup() as tasks,
    ):
        told = await worker.ready()
        await until(lambda: states(etcd_server) == [State.READY])
        request = tasks.create_task(generated(worker, 150))
        await running(worker)
        order(worker, etcd_server, told["worker_id"])
        await until(lambda: states(etcd_server) == [State.DRAINING])
        assert not request.done()
        assert (await worker.control("/health"))[0] == 503
        assert await request == expected("hello", 150)
        assert await worker.ends() == 0
        assert worker.told("drain: idle")
        assert states(etcd_server) == []


async def test_a_drain_ordered_over_http_ends_the_worker(sglang: tuple[Path, Path], tmp_path: Path) -> None:
    async with start_worker(*sglang, "regular", log_dir=tmp_path) as worker:
        status, _ = await worker.control("/drain", "POST")
        assert status == 202
        assert await worker.ends() == 0
        assert worker.told("leaving", "POST /drain")


async def test_a_second_signal_cuts_what_runs(sglang: tuple[Path, Path], tmp_path: Path) -> None:
    async with (
        start_worker(*sglang, "regular", log_dir=tmp_path, behaviour=SLOW) as worker,
        asyncio.TaskGroup() as tasks,
    ):
        await worker.ready()
        request = tasks.create_task(lost(generated(worker, ENDLESS)))
        await running(worker)
        worker.signal(signal.SIGTERM)
        await worker.says("leaving")
        worker.signal(signal.SIGTERM)
        assert await worker.ends() == 0
        assert worker.told("drain: hurried")
        assert await request


async def test_the_limit_cuts_what_runs_and_the_exit_code_says_so(
    sglang: tuple[Path, Path], tmp_path: Path
) -> None:
    async with (
        start_worker(*sglang, "regular", "--drain-limit-s", "1", log_dir=tmp_path, behaviour=SLOW) as worker,
        asyncio.TaskGroup() as tasks,
    ):
        await worker.ready()
        request = tasks.create_task(lost(generated(worker, ENDLESS)))
        await running(worker)
        worker.signal(signal.SIGTERM)
        assert await worker.ends() == 8
        assert worker.told("the limit is reached")
        assert await request


async def test_an_engine_that_dies_during_its_drain_is_told_as_it_was(
    sglang: tuple[Path, Path], tmp_path: Path
) -> None:
    async with (
        start_worker(*sglang, "regular", log_dir=tmp_path, behaviour=SLOW) as worker,
        asyncio.TaskGroup() as tasks,
    ):
        await worker.ready()
        request = tasks.create_task(lost(generated(worker, ENDLESS)))
        await running(worker)
        worker.signal(signal.SIGTERM)
        await worker.says("leaving")
        line = await worker.says("engine: launched")
        os.kill(int(line.partition("pid=")[2].split()[0]), signal.SIGKILL)
        assert await worker.ends() == 128 + signal.SIGKILL
        assert await request


async def lost(request: Awaitable[str]) -> bool:
    """Whether a request was cut."""
    try:
        await request
    except aiohttp.ClientError:
        return True
    return False
