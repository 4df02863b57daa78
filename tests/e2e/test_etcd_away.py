"""etcd goes away under load, for longer than any lease lives: no client notices; all is followed again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest

from proxy.discovery.record import Keys
from proxy.discovery.wire import prefix_end
from tests.e2e.test_openai_sdk import proxy_process
from tests.flow.talk import GENERATE, PROMPT, body_for, opened
from tests.support.engines import OwnProcess, expected, idle, start_engine_process
from tests.support.etcd import Etcd, etcd_server
from tests.support.proxies import eventually

__all__ = ["etcd_server"]

KEYS = Keys("pd")
TTL_S = 2
PACE_S = 0.05
"""Between two requests of one client: steady traffic, not a load test."""


class Traffic:
    """Clients that ask all the time; what they got, by the phase in which they asked."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http
        self._ended = asyncio.Event()
        self.phase = "before"
        self.served: Counter[str] = Counter()
        self.errors: list[str] = []

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Two clients of whole answers and two of streams, during the block; no error is borne."""
        async with asyncio.TaskGroup() as clients:
            for ask in (self._whole, self._whole, self._stream, self._stream):
                clients.create_task(self._keep_asking(ask))
            try:
                yield
            finally:
                self._ended.set()
        print(f"\n{dict(self.served)} answers, {len(self.errors)} errors")
        assert self.errors == []

    async def some_more(self, phase: str, count: int = 10) -> None:
        """Begins a phase, and waits until so many requests of it are served."""
        self.phase = phase
        await eventually(lambda: self.served[phase] >= count or self.errors, 30)

    async def _keep_asking(self, ask: Callable[[], Awaitable[None]]) -> None:
        while not self._ended.is_set():
            phase = self.phase
            try:
                await asyncio.wait_for(ask(), 20)
                self.served[phase] += 1
            except (aiohttp.ClientError, AssertionError, TimeoutError) as error:
                self.errors.append(f"{phase}: {error!r}")
            await asyncio.sleep(PACE_S)

    async def _whole(self) -> None:
        async with self._http.post(GENERATE, json=body_for(GENERATE, tokens=8)) as answer:
            assert answer.status == 200, await answer.text()
            assert (await answer.json())["text"] == expected(PROMPT, 8)

    async def _stream(self) -> None:
        async with opened(self._http, GENERATE, body_for(GENERATE, tokens=25)) as stream:
            assert (await stream.rest())[-1]["text"] == expected(PROMPT, 25)


def leases(etcd: Etcd) -> dict[str, str]:
    """The lease of each worker's key."""
    prefix = KEYS.workers.encode()
    found = etcd.call("/v3/kv/range", {"key": prefix, "range_end": prefix_end(prefix)})
    return {kv["key"]: kv["lease"] for kv in found.get("kvs", [])}


async def states(http: aiohttp.ClientSession) -> dict[str, str]:
    """The state of each worker, as the proxy knows it."""
    async with http.get("/workers") as answer:
        return {worker["id"]: worker["state"] for worker in (await answer.json())["workers"]}


async def registered(etcd: Etcd, stack: AsyncExitStack, role: str) -> OwnProcess:
    """A simulated engine, a process that keeps itself registered under a short lease."""
    flags = ("--etcd-endpoints", etcd.url, "--registry-ttl-s", str(TTL_S))
    return await stack.enter_async_context(start_engine_process(role, flags, decode_ms_per_token=20))


async def hang(etcd: Etcd, away_s: float) -> None:
    """Connections stay open, nothing answers; then every lease has run out, and all keys go at once."""
    etcd.pause()
    await asyncio.sleep(away_s)
    etcd.resume()


async def die(etcd: Etcd, away_s: float) -> None:
    """SIGKILL; then again with the same data."""
    etcd.kill()
    await asyncio.sleep(away_s)
    await etcd.restart()


async def lose_all(etcd: Etcd, away_s: float) -> None:
    """SIGKILL; then again with an empty disk."""
    etcd.kill()
    await asyncio.sleep(away_s)
    await etcd.restart(empty=True)


async def outage(etcd: Etcd, go_away: Callable[[Etcd, float], Awaitable[None]], away_s: float) -> None:
    """Traffic before, while etcd is away, and after; then a drain wish and a new worker are still seen."""
    async with AsyncExitStack() as stack:
        prefill, *decodes = [await registered(etcd, stack, role) for role in ("prefill", "decode", "decode")]
        flags = ("--etcd", etcd.url, "--server-lame-duck-s", "0", "--log-level", "error")
        url = await stack.enter_async_context(proxy_process(*flags))
        http = await stack.enter_async_context(aiohttp.ClientSession(url))
        fleet = {engine.worker.worker_id for engine in (prefill, *decodes)}

        async def all_known() -> bool:
            return set(await states(http)) == fleet

        await eventually(all_known)
        traffic = Traffic(http)
        async with traffic.flowing():
            await traffic.some_more("before")
            before = leases(etcd)
            traffic.phase = "during"
            await go_away(etcd, away_s)
            assert await all_known()
            await traffic.some_more("after")
            await eventually(lambda: leases(etcd).keys() == before.keys(), 30)
            assert await all_known()
            kept = sum(leases(etcd)[key] == lease for key, lease in before.items())
            print(f"\n{len(before) - kept} of {len(before)} leases are new after the outage")
            assert kept == 0 or go_away is die, "the test has a point only if leases run out"

            drained = decodes[0].worker.worker_id
            etcd.put(KEYS.wish(drained), b"the node is to be repaired")

            async def drains() -> bool:
                return (await states(http))[drained] == "draining"

            await eventually(drains)
            newcomer = await registered(etcd, stack, "decode")
            fleet.add(newcomer.worker.worker_id)
            await eventually(all_known, 20)
            await traffic.some_more("followed again")
        await idle(prefill, *decodes, newcomer)
    assert min(traffic.served[phase] for phase in ("before", "during", "after", "followed again")) >= 10


@pytest.mark.timeout(90)
async def test_a_hung_etcd_whose_leases_all_run_out_costs_no_client_anything(etcd_server: Etcd) -> None:
    await outage(etcd_server, hang, 3 * TTL_S)


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("go_away", [hang, die, lose_all])
async def test_a_minute_without_etcd_costs_no_client_anything(
    etcd_server: Etcd, go_away: Callable[[Etcd, float], Awaitable[None]]
) -> None:
    await outage(etcd_server, go_away, 60.0)
