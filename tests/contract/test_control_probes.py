"""Probes on real sockets: who is well, who is not, and what is learned on the way."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import web

from proxy.clock import SystemClock
from proxy.errors import NoPair
from proxy.roster import Change, Origin, Role, Worker
from proxy.routing.group import PoolRules
from proxy.routing.member import Member
from proxy.routing.pool import Pool
from proxy.upstream.inquiries import Inquiries
from proxy.upstream.probes import ProbeRules, Probes

_RULES = ProbeRules(interval_s=0.05, timeout_s=0.3, failures=2, grace_s=0.2, busy_grace_s=30.0)


class Scripted:
    """A server whose answers a test changes while it runs."""

    def __init__(self) -> None:
        self.replies: dict[str, tuple[int, object]] = {}
        self.otherwise = (200, "OK")
        self.asked: list[str] = []
        self.hangs = False
        self.url = ""
        self.runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> None:
        app = web.Application()
        app.router.add_route("*", "/{any:.*}", self._reply)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"

    async def stop(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    async def _reply(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if self.hangs:
            await asyncio.sleep(5)
        status, value = self.replies.get(request.path, self.otherwise)
        return (
            web.json_response(value, status=status)
            if isinstance(value, dict)
            else web.Response(text=str(value), status=status)
        )


class Ward:
    def __init__(self, stack: AsyncExitStack, rules: ProbeRules) -> None:
        self.stack = stack
        self.pool = Pool(PoolRules(), SystemClock(), random.Random(1))
        self.inquiries = Inquiries(None, 1.0)
        self.probes = Probes(rules, self.pool, self.inquiries, SystemClock(), random.Random(1))
        self.pool.on_change = self.probes.wake
        self.group: asyncio.TaskGroup | None = None

    async def server(self) -> Scripted:
        server = Scripted()
        await server.start()
        self.stack.push_async_callback(server.stop)
        return server

    def admit(self, url: str, role: Role = Role.DECODE, **said: object) -> str:
        worker = Worker("w", url, role, **said)  # type: ignore[arg-type]
        self.pool.apply([Change("w", worker)])
        return "w"

    @property
    def member(self) -> Member:
        member = self.pool.get("w")
        assert member is not None
        return member


@pytest.fixture
async def ward() -> AsyncIterator[Ward]:
    async with _warded(_RULES) as ward:
        yield ward


@asynccontextmanager
async def _warded(rules: ProbeRules) -> AsyncIterator[Ward]:
    async with AsyncExitStack() as stack:
        ward = Ward(stack, rules)
        stack.push_async_callback(ward.inquiries.close)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(ward.probes.run())
            yield ward
            task.cancel()


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


async def test_a_plain_ok_to_everything_is_a_healthy_worker(ward: Ward) -> None:
    server = await ward.server()
    ward.admit(server.url)
    before = ward.member.worker
    await _until(lambda: ward.member.probe_ok is True)
    assert ward.member.worker == before
    assert ward.probes.answers("w")


async def test_a_worker_without_any_known_path_is_alive(ward: Ward) -> None:
    server = await ward.server()
    server.otherwise = (404, "Not Found")
    ward.admit(server.url)
    await _until(lambda: ward.member.probe_ok is True and server.asked.count("/get_model_info") > 2)
    assert server.asked.count("/ready") == 1
    assert "/health" not in server.asked


async def test_a_refused_connection_is_a_failure_and_its_return_is_seen(ward: Ward) -> None:
    server = await ward.server()
    ward.admit(server.url)
    await _until(lambda: ward.member.probe_ok is True)
    port = server.port
    await server.stop()
    await _until(lambda: ward.member.probe_ok is False)
    assert "cannot connect" in ward.member.probe_reason
    await server.start(port)
    await _until(lambda: ward.member.probe_ok is True)


async def test_an_engine_that_says_it_is_not_ready_gets_nothing(ward: Ward) -> None:
    server = await ward.server()
    server.replies["/ready"] = (503, "loading")
    ward.admit(server.url)
    await _until(lambda: ward.member.probe_ok is False)
    assert "503" in ward.member.probe_reason


async def test_late_probes_remove_an_idle_worker(ward: Ward) -> None:
    server = await ward.server()
    server.hangs = True
    ward.admit(server.url)
    await _until(lambda: ward.member.probe_ok is False)


async def test_late_probes_do_not_remove_a_worker_that_is_answering_requests(ward: Ward) -> None:
    server = await ward.server()
    ward.admit(server.url)
    await _until(lambda: ward.member.probe_ok is True)
    ward.member.in_flight = 1
    server.hangs = True
    asked = len(server.asked)
    await _until(lambda: len(server.asked) >= asked + 5)
    assert ward.member.probe_ok is True
    ward.member.in_flight = 0
    await _until(lambda: ward.member.probe_ok is False)


async def test_a_bootstrap_server_counts_only_after_it_has_answered_once(ward: Ward) -> None:
    server = await ward.server()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    ward.admit(server.url, Role.PREFILL, bootstrap_port=port)
    await _until(lambda: ward.member.probe_ok is True and len(server.asked) > 6)
    assert ward.member.probe_ok is True

    bootstrap = await ward.server()
    ward.admit(server.url, Role.PREFILL, bootstrap_port=bootstrap.port)
    await _until(lambda: bootstrap.asked.count("/health") > 1)
    await bootstrap.stop()
    await _until(lambda: ward.member.probe_ok is False)
    assert "bootstrap server" in ward.member.probe_reason


@pytest.mark.parametrize("path", ["/server_info", "/get_server_info"])
async def test_what_a_worker_did_not_say_is_learned_from_either_generation(ward: Ward, path: str) -> None:
    server = await ward.server()
    server.otherwise = (404, "Not Found")
    told = {
        "version": "0.5.2",
        "tp_size": 8,
        "dp_size": 2,
        "max_running_requests": 64,
        "disaggregation_mode": "prefill",
        "disaggregation_bootstrap_port": 9001,
        "served_model_name": "llama",
    }
    server.replies[path] = (200, told)
    ward.admit(server.url, Role.PREFILL, tp_size=4)
    await _until(lambda: ward.member.worker.engine_version == "0.5.2")
    worker = ward.member.worker
    assert (worker.tp_size, worker.dp_size, worker.bootstrap_port) == (4, 2, 9001)
    assert ward.member.cap == 64
    assert worker.model is None

    # The registry's next word is again without them; and a new process is asked anew.
    ward.admit(server.url, Role.PREFILL, tp_size=4, node="n1")
    await _until(lambda: ward.member.worker.engine_version == "0.5.2")
    server.replies[path] = (200, {**told, "version": "0.5.23"})
    ward.admit(server.url, Role.PREFILL, instance="new")
    await _until(lambda: ward.member.worker.engine_version == "0.5.23")


async def test_a_worker_of_the_wrong_role_is_refused_until_it_switches(ward: Ward) -> None:
    server = await ward.server()
    server.replies["/server_info"] = (200, {"disaggregation_mode": "prefill", "tp_size": 8})
    ward.admit(server.url, Role.DECODE)
    await _until(lambda: ward.member.probe_ok is False)
    assert "disaggregation-mode prefill" in ward.member.probe_reason
    assert ward.member.worker.tp_size is None
    server.replies["/server_info"] = (200, {"disaggregation_mode": "decode"})
    await _until(lambda: ward.member.probe_ok is True)


async def test_a_worker_from_the_snapshot_is_probed_at_once(ward: Ward) -> None:
    server = await ward.server()
    ward.admit(server.url, origin=Origin.SNAPSHOT)
    with pytest.raises(NoPair):
        ward.pool.choose(ward.pool.group_for(None))
    await _until(lambda: ward.member.standing_by is None)


async def test_a_worker_that_has_gone_is_asked_no_more(ward: Ward) -> None:
    server = await ward.server()
    ward.admit(server.url)
    await _until(lambda: ward.member.probe_ok is True)
    ward.pool.apply([Change("w", None)])
    await _until(lambda: "w" not in ward.probes._watched)
    await asyncio.sleep(0)
    assert not ward.probes.answers("w")


async def test_a_predecessors_answer_says_nothing_of_the_next_process(ward: Ward) -> None:
    server, dead = await ward.server(), await ward.server()
    ward.admit(dead.url, instance="old")
    await _until(lambda: ward.member.probe_ok is True)
    dead.hangs = True
    await _until(lambda: ward.probes._watched["w"].under_way)
    ward.admit(server.url, instance="new")
    await _until(lambda: ward.member.probe_ok is True)
    await asyncio.sleep(0.5)
    assert ward.member.probe_ok is True
    assert ward.probes._watched["w"].failures == 0


async def test_probes_of_many_workers_are_bounded_and_all_happen() -> None:
    # why: one small server answers for 200 workers here, so a late answer is no fault of the probes.
    async with _warded(replace(_RULES, interval_s=1.0, timeout_s=5.0)) as ward:
        server = await ward.server()
        template = Worker("x", server.url, Role.DECODE)
        workers = [replace(template, worker_id=f"d{n}") for n in range(200)]
        ward.pool.apply([Change(worker.worker_id, worker) for worker in workers])
        await _until(lambda: all(member.probe_ok is True for member in ward.pool.members()))
