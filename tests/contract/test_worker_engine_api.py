"""What pd-worker asks its engine, of a server that answers as SGLang's states have it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from proxy.roster import Role
from workers.engine_api import EngineApi


class Engine:
    """Its /ready and /health; a generation that works makes an unhealthy engine a healthy one."""

    def __init__(self) -> None:
        self.state = "starting"
        self.generates = True
        self.modern = True
        self.asked: list[str] = []

    async def ready(self, request: web.Request) -> web.Response:
        self.asked.append("ready")
        if not self.modern:
            return web.Response(status=404)
        return web.Response(status=200 if self.state == "up" else 503)

    async def health(self, request: web.Request) -> web.Response:
        self.asked.append("health")
        if self.state != "starting":
            self.state = "up" if self.generates else "unhealthy"
        return web.Response(status=200 if self.state == "up" else 503)


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
async def api(engine: Engine) -> AsyncIterator[EngineApi]:
    app = web.Application()
    app.add_routes([web.get("/ready", engine.ready), web.get("/health", engine.health)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api = EngineApi(Role.DECODE, "127.0.0.1", runner.addresses[0][1], None, None)
    yield api
    await api.close()
    await runner.cleanup()


async def test_an_engine_that_is_up_is_not_made_to_generate(api: EngineApi, engine: Engine) -> None:
    engine.state = "up"
    assert await api.answers()
    assert engine.asked == ["ready"]


async def test_an_engine_that_starts_is_not_up(api: EngineApi, engine: Engine) -> None:
    assert not await api.answers()
    assert engine.state == "starting"


async def test_an_engine_without_ready_is_asked_for_its_health(api: EngineApi, engine: Engine) -> None:
    engine.modern, engine.state = False, "up"
    assert await api.answers()
    assert engine.asked == ["ready", "health"]


async def test_an_engine_whose_warm_up_failed_is_up_once_it_generates(api: EngineApi, engine: Engine) -> None:
    engine.state = "unhealthy"
    engine.generates = False
    assert not await api.answers()
    engine.generates = True
    assert await api.answers()
