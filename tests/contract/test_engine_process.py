"""`pd-worker --engine simulated` as a process: the registry, SIGTERM, and many streams at once."""

from __future__ import annotations

import asyncio
import sys
import time

import msgspec
import pytest

from proxy.discovery.etcd import Etcd, EtcdRules
from proxy.discovery.record import Keys
from proxy.discovery.wire import prefix_end
from tests.contract.engine_client import ask, ask_pair, generate
from tests.support.engines import expected, idle, reached, start_engine, start_engine_process
from tests.support.etcd import Etcd as Server
from tests.support.etcd import etcd_server

__all__ = ["etcd_server"]


async def registered(etcd: Etcd) -> dict[str, str]:
    """State by worker id."""
    prefix = Keys("pd").workers.encode()
    answer = await etcd.range(prefix, prefix_end(prefix))
    values = [msgspec.json.decode(kv.value) for kv in answer.kvs]
    keys = [kv.key.decode().rsplit("/", 1)[1] for kv in answer.kvs]
    return {key: value["state"] for key, value in zip(keys, values, strict=True)}


async def until(etcd: Etcd, wanted: dict[str, str]) -> None:
    deadline = time.monotonic() + 10
    while (found := await registered(etcd)) != wanted:
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.02)


async def test_a_worker_is_ready_then_draining_then_gone_while_its_stream_ends(etcd_server: Server) -> None:
    more = ["--etcd-endpoints", etcd_server.url]
    async with (
        Etcd(EtcdRules(endpoints=(etcd_server.url,))) as registry,
        start_engine_process("regular", more, decode_ms_per_token=10) as engine,
        asyncio.TaskGroup() as tasks,
    ):
        name = f"regular-127.0.0.1-{engine.port}"
        await until(registry, {name: "ready"})
        running = tasks.create_task(ask(engine, "/generate", generate(n=100, stream=True)))
        await reached(engine, "running")
        ending = tasks.create_task(engine.terminate())
        await until(registry, {name: "draining"})
        assert (await ask(engine, "/health", None)).status == 503
        late = await ask(engine, "/generate", generate(n=1))
        assert late.status == 200
        got = await running
        assert got.done
        assert got.events[-1]["text"] == expected("hello world", 100)
        assert await ending == 0
        await until(registry, {})


async def test_a_taken_port_is_one_clear_line() -> None:
    async with start_engine() as engine:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "workers", "--port", str(engine.port), stderr=asyncio.subprocess.PIPE
        )
        _, complaint = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 3
    assert complaint.decode().count("\n") == 1
    assert f"cannot listen on 127.0.0.1:{engine.port}" in complaint.decode()


@pytest.mark.parametrize("flags", [["--engine", "sglang"], ["--tp-size", "0"], ["--config", "none.toml"]])
async def test_a_bad_setting_is_named(flags: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "workers", *flags, stderr=asyncio.subprocess.PIPE
    )
    _, complaint = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 2
    assert flags[0].strip("-").replace("-", "_") in complaint.decode()


async def test_512_paced_streams_at_once_are_all_right() -> None:
    async with (
        start_engine_process("prefill") as p,
        start_engine_process("decode", decode_ms_per_token=50) as d,
    ):

        async def one(number: int) -> None:
            _, got = await ask_pair(p, d, "/generate", generate(f"p {number}", 10, stream=True))
            assert got.events[-1]["text"] == expected(f"p {number}", 10)

        async with asyncio.TaskGroup() as tasks:
            for number in range(512):
                tasks.create_task(one(number))
        assert (await d.state())["peak_live"] > 256
        await idle(p, d)
