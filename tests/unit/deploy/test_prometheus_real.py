"""A real Prometheus with our configuration: it finds the workers through the proxy, and faults fire alerts.

Intervals and the alerts' `for` are shortened, and a registry is stale after 3 s.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.engines import start_engine
from tests.support.etcd import Etcd, etcd_server, free_ports
from tests.support.proxies import eventually, start_proxy
from tests.unit.deploy.needed import DEPLOY, program

__all__ = ["etcd_server"]

FOLDER = DEPLOY / "prometheus"
LIMIT_S = 60.0
GENERATE = {"text": "hello", "sampling_params": {"max_new_tokens": 2}}


def hurried(folder: Path, proxy_port: int) -> Path:
    """Our files, with everything that takes minutes taking seconds; the configuration's path."""
    for path in FOLDER.glob("*.yml"):
        text = path.read_text().replace("127.0.0.1:30000", f"127.0.0.1:{proxy_port}")
        text = re.sub(
            r"(scrape_interval|scrape_timeout|evaluation_interval|refresh_interval): \d+s", r"\1: 1s", text
        )
        text = text.replace("pd_registry_age_seconds > 60", "pd_registry_age_seconds > 3")
        (folder / path.name).write_text(re.sub(r"for: \d+m", "for: 1s", text))
    return folder / "prometheus.yml"


class Server:
    """A running Prometheus."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def ready(self) -> bool:
        try:
            async with self._http.get("/-/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def _data(self, path: str, **query: str) -> Any:
        async with self._http.get(f"/api/v1/{path}", params=query) as answer:
            return (await answer.json())["data"]

    async def series(self, expr: str) -> list[dict[str, str]]:
        """The labels of what an expression finds now."""
        return [one["metric"] for one in (await self._data("query", query=expr))["result"]]

    async def firing(self, alert: str) -> bool:
        found = (await self._data("alerts"))["alerts"]
        return any(one["state"] == "firing" and one["labels"]["alertname"] == alert for one in found)


@asynccontextmanager
async def prometheus(folder: Path, configuration: Path) -> AsyncIterator[Server]:
    binary = program("prometheus", "apt-get install --no-install-recommends prometheus")
    (port,) = free_ports(1)
    process = await asyncio.create_subprocess_exec(
        binary, f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
    )  # fmt: skip
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            server = Server(http)
            await eventually(server.ready, LIMIT_S)
            yield server
    finally:
        process.terminate()
        await process.wait()
        shutil.rmtree(folder / "data", ignore_errors=True)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_workers_are_found_and_faults_fire(tmp_path: Path) -> None:
    async with start_engine("prefill") as prefill, start_engine("decode") as decode:
        (port,) = free_ports(1)
        async with prometheus(tmp_path, hurried(tmp_path, port)) as server:
            async with start_proxy(
                [prefill],
                [decode],
                server={"port": port},
                health={"interval_s": 0.2, "failures": 1},
                routing={"queue_s": 0.2},
            ) as proxy:
                await _scraped(server)
                await eventually(lambda: proxy.service.unready() is None, LIMIT_S)
                async with proxy.http.post("/generate", json=GENERATE) as answer:
                    assert answer.status == 200
                await eventually(lambda: server.series('pd_requests_total{outcome="ok"} > 0'), LIMIT_S)
                assert not await server.firing("PdRequestsLost")

                async def at_rest() -> bool:
                    return not await server.firing("PdNoPair")

                await eventually(at_rest, LIMIT_S)

                await decode.kill()
                await eventually(lambda: server.firing("PdNoPair"), LIMIT_S)

                async def losing() -> bool:
                    async with proxy.http.post("/generate", json=GENERATE) as answer:
                        assert answer.status >= 500
                    return await server.firing("PdRequestsLost")

                await eventually(losing, LIMIT_S)
            await eventually(lambda: server.firing("PdProxyDown"), LIMIT_S)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_failing_workers_and_a_silent_registry_fire(tmp_path: Path, etcd_server: Etcd) -> None:
    settings: dict[str, Any] = {
        "discovery": {"etcd_endpoints": [etcd_server.url]},
        "routing": {"policy": "round_robin", "slow_start_s": 0},
        "retries": {"initial_backoff_s": 0.001, "budget_ratio": 0, "budget_floor_per_s": 1},
        "breaker": {"open_s": 60, "edge_open_s": 60, "edge_open_max_s": 60},
    }
    (port,) = free_ports(1)
    async with (
        start_engine("prefill") as prefill,
        start_engine("decode") as unreached,
        start_engine("decode") as broken,
        prometheus(tmp_path, hurried(tmp_path, port)) as server,
        start_proxy([prefill], [unreached, broken], server={"port": port}, **settings) as proxy,
    ):

        async def asked(alert: str) -> bool:
            async with proxy.http.post("/generate", json=GENERATE) as answer:
                await answer.read()
            return await server.firing(alert)

        await eventually(lambda: server.series("pd_registry_connected == 1"), LIMIT_S)
        for alert in ("PdEdgesOpen", "PdWorkersBenched", "PdRetryBudgetSpent", "PdRegistryStale"):
            assert not await asked(alert)
        await unreached.fault("kv_transfer")
        await eventually(lambda: asked("PdEdgesOpen"), LIMIT_S)
        await broken.fault("status", status=500)
        await eventually(lambda: asked("PdWorkersBenched"), LIMIT_S)
        await eventually(lambda: asked("PdRetryBudgetSpent"), LIMIT_S)
        etcd_server.pause()
        await eventually(lambda: server.firing("PdRegistryStale"), LIMIT_S)


async def _scraped(server: Server) -> None:
    """Proxy and engines answer, each under its own job, engines with what the proxy knows of them."""
    await eventually(lambda: server.series('up{job="pd-proxy"} == 1'), LIMIT_S)

    async def both(expr: str) -> bool:
        return len(await server.series(expr)) == 2

    await eventually(lambda: both('up{job="sglang"} == 1'), LIMIT_S)
    await eventually(lambda: both('up{job="pd-worker"}'), LIMIT_S)
    engines = await server.series('up{job="sglang"}')
    assert {one["role"] for one in engines} == {"prefill", "decode"}
    assert all(one["worker_id"] and one["model"] for one in engines)
    assert len(await server.series('up{job="pd-proxy"}')) == 1, "the proxy is scraped once"
    wrappers = await server.series('up{job="pd-worker"}')
    assert {one["instance"].rpartition(":")[2] for one in wrappers} == {"30090"}
