"""Every alert of deploy/prometheus, fired by the fault it is about; times are shortened, see `prometheus`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.alerts.prometheus import LIMIT_S, Server, prometheus
from tests.alerts.traffic import ask, clients
from tests.support.engines import start_engine
from tests.support.etcd import Etcd, etcd_server, free_ports
from tests.support.proxies import eventually, start_proxy
from tests.support.workers import WorkerProcess, make_engine_python, make_weights, start_worker
from tests.unit.deploy.needed import documents
from tests.unit.deploy.test_prometheus import FOLDER

__all__ = ["etcd_server"]

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
FIRED: set[tuple[str, str]] = set()
"""What the tests of this file have seen firing: name, and the labels that tell two of one name apart."""
_TELLING = ("severity", "seen_by", "short_of")
HEALTHY_S = 60.0
"""why: an alert that asks for 15 minutes asks for 45 s here."""


@pytest.fixture(scope="module", autouse=True)
def every_alert_has_fired(request: pytest.FixtureRequest) -> Iterator[None]:
    """After all tests of this file: no alert is left that nobody has seen firing."""
    yield
    ran = {item.name for item in request.session.items if item.path == request.node.path}
    if request.session.testsfailed or len(ran) < 4:
        return
    rules = [
        (rule["alert"], told(rule["labels"]))
        for group in documents(FOLDER / "alerts.rules.yml")[0]["groups"]
        for rule in group["rules"]
    ]
    assert [one for one in rules if one not in FIRED] == []


def told(labels: dict[str, str]) -> str:
    return json.dumps({name: labels[name] for name in _TELLING if name in labels})


async def seen(server: Server, name: str, meanwhile: Any = None, **labels: str) -> None:
    FIRED.update((name, told(one["labels"])) for one in await server.fires(name, meanwhile, **labels))


async def test_nothing_fires_on_a_healthy_fleet_and_each_loss_fires(
    tmp_path: Path, etcd_server: Etcd
) -> None:
    """Two prefills and two decodes under real pd-workers, found in a real etcd."""
    python, weights = make_engine_python(tmp_path), make_weights(tmp_path / "Qwen3-32B")
    registered = ("--etcd-endpoints", etcd_server.url, "--crash-limit", "50")
    (port,) = free_ports(1)
    settings: dict[str, Any] = {
        "server": {"port": port},
        "discovery": {"etcd_endpoints": [etcd_server.url]},
        "health": {"interval_s": 0.5, "failures": 2},
        "routing": {"queue_s": 0.5},
    }
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(
                start_worker(python, weights, role, *registered, log_dir=tmp_path / f"{role}{number}")
            )
            for role in ("prefill", "decode")
            for number in range(2)
        ]
        for one in workers:
            await one.ready()
        server = await stack.enter_async_context(prometheus(tmp_path, port))
        async with start_proxy(**settings) as proxy:
            await eventually(lambda: proxy.service.unready() is None, LIMIT_S)
            async with clients(proxy, 3, tokens=4, pause_s=0.2):
                await each_is_scraped_once(server, workers)
                await asyncio.sleep(HEALTHY_S)
                assert await server.ever_fired() <= {"PdNoPair", "PdProxyDown"}, "those until the proxy stood"
                assert not await server.alerts("PdNoPair")
                assert not await server.alerts("PdProxyDown")

                crashing, leaving = workers[2:]
                lives = 1
                for _ in range(3):
                    os.kill(json.loads((await crashing.control("/health"))[1])["engine_pid"], signal.SIGKILL)
                    lives += 1
                    await crashing.ready(lives)
                await seen(server, "PdWorkerCrashes")
                leaving.signal(signal.SIGTERM)
                await seen(server, "PdWorkersMissing", role="decode")
                etcd_server.pause()
                await seen(server, "PdRegistryStale")
                crashing.process.kill()
                for pid in crashing.tree():
                    os.kill(pid, signal.SIGKILL)
                await seen(server, "PdNoPair")
                await seen(server, "PdRequestsLost", severity="page")
                await seen(server, "PdRequestsLost", severity="ticket")
        await seen(server, "PdProxyDown")
        etcd_server.resume()


async def each_is_scraped_once(server: Server, workers: list[WorkerProcess]) -> None:
    """The proxy, every engine at its port and every pd-worker at its own, with what the registry knows."""
    ports = {
        "sglang": {one.port for one in workers},
        "pd-worker": {int((await one.ready())["control"].rpartition(":")[2]) for one in workers},
    }

    async def scraped(job: str) -> bool:
        found = await server.series(f'up{{job="{job}"}} == 1')
        return sorted(int(one["instance"].rpartition(":")[2]) for one in found) == sorted(ports[job])

    for job in ports:
        await eventually(lambda job=job: scraped(job), LIMIT_S)
        for one in await server.series(f'up{{job="{job}"}}'):
            assert one["worker_id"].startswith(one["role"])
            assert (one["model"], one["engine_version"]) == ("Qwen3-32B", "0.5.23")
            assert one["node"]
    await eventually(lambda: server.series('up{job="pd-proxy"} == 1'), LIMIT_S)
    assert len(await server.series('up{job="pd-proxy"}')) == 1
    assert len(await server.series("pd_worker_up == 1")) == len(workers)


async def test_failing_and_full_workers_fire(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "routing": {
            "policy": "round_robin",
            "slow_start_s": 0,
            "max_in_flight_per_worker": 4,
            "queue_s": 60,
        },
        "retries": {"initial_backoff_s": 0.001, "budget_ratio": 0, "budget_floor_per_s": 1},
        "breaker": {"open_s": 60, "edge_open_s": 60, "edge_open_max_s": 60},
    }
    (port,) = free_ports(1)
    async with (
        start_engine("prefill") as prefill,
        start_engine("decode", decode_ms_per_token=50) as unreached,
        start_engine("decode", decode_ms_per_token=50) as broken,
        prometheus(tmp_path, port) as server,
        start_proxy([prefill], [unreached, broken], server={"port": port}, **settings) as proxy,
    ):
        await eventually(lambda: server.series('up{job="pd-proxy"} == 1'), LIMIT_S)

        async def asked() -> None:
            await ask(proxy)

        await unreached.fault("kv_transfer")
        await seen(server, "PdEdgesOpen", asked)
        await broken.fault("status", status=500)
        await seen(server, "PdWorkersBenched", asked)
        await seen(server, "PdRetryBudgetSpent", asked)
        for one in (unreached, broken):
            await one.clear_faults()
        async with clients(proxy, 12, tokens=40, stream=False):
            await seen(server, "PdRequestsQueue")


async def test_slow_prefills_and_transfers_fire(tmp_path: Path, etcd_server: Etcd) -> None:
    """Half of the first tokens take over 5 s: one prefill is slow, and every transfer takes over a second."""
    python, weights = make_engine_python(tmp_path), make_weights(tmp_path / "simulated")
    behaviour = {"engine": {"prefill_tokens_per_s": 1.0, "prefix_cache_tokens": 0}}
    (port,) = free_ports(1)
    settings: dict[str, Any] = {
        "server": {"port": port},
        "discovery": {"etcd_endpoints": [etcd_server.url]},
        "routing": {"policy": "round_robin"},
    }
    async with (
        start_engine("prefill") as fast,
        start_engine("decode", kv_latency_ms=1300) as decode,
        start_worker(
            python, weights, "prefill", "--etcd-endpoints", etcd_server.url, "--no-canary",
            log_dir=tmp_path, behaviour=behaviour,
        ) as slow,
        prometheus(tmp_path, port) as server,
        start_proxy([fast], [decode], **settings) as proxy,
    ):  # fmt: skip
        await slow.ready()
        await eventually(lambda: len(list(proxy.service.pool.members())) == 3, LIMIT_S)
        async with clients(proxy, 32, tokens=2):
            await seen(server, "PdTtftBurnsFast")
            await seen(server, "PdKvTransferSlow", seen_by="proxy")
            await seen(server, "PdKvTransferSlow", seen_by="engine")
            await seen(server, "PdPrefillDecodeImbalance", short_of="prefill")
            await seen(server, "PdTtftBurnsSlowly")
            assert not await server.alerts("PdItlBurnsFast")


async def test_slow_decodes_fire(tmp_path: Path) -> None:
    """Every token takes 0.2 s, and the prefill waits for work."""
    (port,) = free_ports(1)
    async with (
        start_engine("prefill") as prefill,
        start_engine("decode", decode_ms_per_token=200) as decode,
        prometheus(tmp_path, port) as server,
        start_proxy([prefill], [decode], server={"port": port}) as proxy,
        clients(proxy, 24, tokens=300),
    ):
        await seen(server, "PdItlBurnsFast")
        await seen(server, "PdItlBurnsSlowly")
        await seen(server, "PdPrefillDecodeImbalance", short_of="decode")
        assert not await server.alerts("PdTtftBurnsFast")
