"""The control routes and the probes before simulated engines of both generations."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from proxy.clock import SystemClock
from proxy.control.application import build_application
from proxy.control.deps import ControlDeps
from proxy.roster import Change, Role, Worker
from proxy.routing.group import PoolRules
from proxy.routing.pool import Pool
from proxy.upstream.inquiries import Inquiries
from proxy.upstream.probes import ProbeRules, Probes
from tests.support.engines import BOTH_GENERATIONS, InProcess, idle, start_engine


@dataclass
class Scene:
    pool: Pool
    engines: list[InProcess]
    url: str

    async def ask(self, method: str, path: str) -> tuple[int, Any]:
        async with aiohttp.ClientSession() as client, client.request(method, self.url + path) as response:
            return response.status, await response.json(content_type=None)


@pytest.fixture(params=BOTH_GENERATIONS)
async def scene(request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    """One pair, of which we know no more than addresses, as the static list has it."""
    async with AsyncExitStack() as stack:
        clock = SystemClock()
        pool = Pool(PoolRules(), clock, random.Random(1))
        inquiries = Inquiries(None, 2.0)
        engines = [
            await stack.enter_async_context(start_engine(role, engine_version=request.param))
            for role in ("prefill", "decode")
        ]
        for engine in engines:
            role = engine.config.role
            port = engine.bootstrap_port if role is Role.PREFILL else None
            worker = Worker(role.value, engine.url, role, bootstrap_port=port)
            pool.apply([Change(worker.worker_id, worker)])
        stack.push_async_callback(inquiries.close)

        async def abort(rid: str) -> int:
            return 0

        deps = ControlDeps(
            pool=pool,
            inquiries=inquiries,
            clock=clock,
            metrics_exposition=lambda accept: (b"", "text/plain"),
            readiness=pool.unready,
            abort_rid=abort,
            version="0",
            started_at=0.0,
        )
        runner = web.AppRunner(build_application(deps), shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        probes = Probes(ProbeRules(interval_s=0.5), pool, inquiries, clock, random.Random(1))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(probes.run())
            yield Scene(pool, engines, f"http://127.0.0.1:{runner.addresses[0][1]}")
            task.cancel()


async def test_probes_find_both_well_and_learn_their_versions(scene: Scene) -> None:
    async with asyncio.timeout(10):
        while not all(m.probe_ok and m.worker.engine_version for m in scene.pool.members()):
            await asyncio.sleep(0.02)
    for member, engine in zip(scene.pool.members(), scene.engines, strict=True):
        assert member.worker.engine_version == engine.config.engine_version
    assert scene.pool.unready() is None


async def test_a_token_really_goes_through_the_pair_and_nothing_stays_behind(scene: Scene) -> None:
    status, body = await scene.ask("GET", "/health_generate")
    assert status == 200, body
    await idle(*scene.engines)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/get_model_info", "model_path"),
        ("/model_info", "model_path"),
        ("/v1/models", "data"),
        ("/server_info", "decode"),
    ],
)
async def test_information_has_its_known_shape(scene: Scene, path: str, key: str) -> None:
    status, body = await scene.ask("GET", path)
    assert status == 200
    assert body[key]
    assert "error" not in str(body)


async def test_orders_and_loads_reach_both(scene: Scene) -> None:
    assert (await scene.ask("POST", "/flush_cache"))[0] == 200
    status, body = await scene.ask("GET", "/v1/loads")
    assert status == 200
    assert [item["worker_type"] for item in body["loads"]] == ["prefill", "decode"]
    assert all(item["load"] is not None and item["error"] is None for item in body["loads"])
