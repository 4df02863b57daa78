"""Workers come, drain, die and come back in a real etcd, and requests follow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.flow.talk import GENERATE, PROMPT, ask, body_for, opened
from tests.support.engines import OwnProcess, expected, start_engine_process
from tests.support.etcd import Etcd, etcd_server
from tests.support.proxies import Proxy, eventually, start_proxy

__all__ = ["etcd_server"]

BODY = {"text": PROMPT, "sampling_params": {"max_new_tokens": 6}}


@asynccontextmanager
async def registered(role: str, etcd: Etcd, *more: str, **fields: object) -> AsyncIterator[OwnProcess]:
    """An engine process that registers itself."""
    async with start_engine_process(role, ["--etcd-endpoints", etcd.url, *more], **fields) as engine:
        yield engine


def discovering(etcd: Etcd, snapshot: Path | None = None) -> dict[str, dict[str, object]]:
    """Settings of a proxy that looks into `etcd`; all turns are equal, so that few requests meet everyone."""
    found: dict[str, object] = {"etcd_endpoints": [etcd.url]}
    if snapshot is not None:
        found["snapshot_path"] = str(snapshot)
    return {"discovery": found, "routing": {"policy": "round_robin", "slow_start_s": 0}}


def known(proxy: Proxy) -> set[str]:
    """The workers that may get a request."""
    return {m.worker.worker_id for m in proxy.service.pool.members() if m.standing_by is None}


async def served(proxy: Proxy, count: int = 4) -> set[str]:
    """Serves some requests, rightly; the decodes that served them."""
    before = len(proxy.lines)
    for _ in range(count):
        answer = await ask(proxy.http, GENERATE, BODY)
        assert answer.status == 200, answer.raw
        assert answer.json["text"] == expected(PROMPT, 6)
    return {line["decode"] for line in proxy.lines[before:]}


async def test_registered_workers_are_found_and_a_drained_one_gets_nothing_new(etcd_server: Etcd) -> None:
    async with (
        registered("prefill", etcd_server),
        registered("decode", etcd_server, decode_ms_per_token=25) as leaving,
        registered("decode", etcd_server, decode_ms_per_token=25) as staying,
        start_proxy(**discovering(etcd_server)) as proxy,
    ):
        ids = {leaving.worker.worker_id, staying.worker.worker_id}
        await eventually(lambda: ids <= known(proxy) and proxy.service.unready() is None)
        assert await served(proxy, 8) == ids
        body = body_for(GENERATE, tokens=60)
        async with (
            asyncio.TaskGroup() as group,
            opened(proxy.http, GENERATE, body) as one,
            opened(proxy.http, GENERATE, body) as two,
        ):
            await one.next()
            await two.next()
            ending = group.create_task(leaving.terminate())
            await eventually(lambda: leaving.worker.worker_id not in known(proxy))
            assert await served(proxy, 4) == {staying.worker.worker_id}
            for stream in (one, two):
                assert (await stream.rest())[-1]["text"] == expected(PROMPT, 60)
        assert ending.result() == 0
        await eventually(lambda: ids <= {line["decode"] for line in proxy.lines[-2:]})


async def test_a_dead_worker_goes_with_its_lease_and_comes_back_under_its_id(etcd_server: Etcd) -> None:
    short_lived = ["--worker-id", "decode-x", "--registry-ttl-s", "3"]
    async with (
        registered("prefill", etcd_server),
        registered("decode", etcd_server) as other,
        start_proxy(**discovering(etcd_server)) as proxy,
    ):
        async with registered("decode", etcd_server, *short_lived) as dying:
            await eventually(lambda: {"decode-x", other.worker.worker_id} <= known(proxy))
            await dying.kill()
            # Until the lease ends the dead one is known, but its refusals are hidden.
            await served(proxy, 6)
            await eventually(lambda: proxy.service.pool.get("decode-x") is None, 20)
            assert await served(proxy) == {other.worker.worker_id}
        async with registered("decode", etcd_server, *short_lived) as back:
            await eventually(
                lambda: (
                    (member := proxy.service.pool.get("decode-x")) is not None
                    and member.worker.url == back.url
                    and member.standing_by is None
                )
            )
            assert "decode-x" in await served(proxy, 12)


async def test_traffic_goes_on_while_etcd_is_away(etcd_server: Etcd) -> None:
    async with (
        registered("prefill", etcd_server),
        registered("decode", etcd_server),
        start_proxy(**discovering(etcd_server)) as proxy,
    ):
        await eventually(lambda: proxy.service.unready() is None)
        watcher = proxy.service.watcher
        assert watcher is not None
        etcd_server.kill()
        await eventually(lambda: not watcher.connected)
        await served(proxy)
        assert proxy.service.unready() is None
        etcd_server.launch()
        await etcd_server.ready()
        await eventually(lambda: watcher.connected)
        await served(proxy)


async def test_a_proxy_started_without_etcd_serves_from_its_snapshot(
    etcd_server: Etcd, tmp_path: Path
) -> None:
    snapshot = tmp_path / "workers.json"
    async with registered("prefill", etcd_server), registered("decode", etcd_server):
        async with start_proxy(**discovering(etcd_server, snapshot)) as proxy:
            await eventually(lambda: proxy.service.unready() is None)
            await eventually(snapshot.exists)
        etcd_server.kill()
        async with start_proxy(**discovering(etcd_server, snapshot)) as proxy:
            await eventually(lambda: proxy.service.unready() is None)
            await served(proxy)
