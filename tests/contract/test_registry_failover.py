"""Several endpoints: a dead member is left at once, a hung one within 5 s, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest

from proxy.discovery.etcd import Etcd, EtcdRules
from proxy.discovery.refusals import EtcdUnavailable
from proxy.discovery.watcher import PROBE_EVERY_S
from tests.contract.registry_fleet import KEYS, Seen, a_worker, put, rules, until, watching
from tests.support.etcd import Etcd as Server
from tests.support.etcd import etcd_members, free_ports


@pytest.fixture
def members() -> Iterator[list[Server]]:
    with etcd_members(3) as servers:
        yield servers


async def _visible(seen: Seen, server: Server, number: int) -> None:
    """A write through `server`, retried while the cluster has no leader, is seen."""
    worker = a_worker(number)

    def write() -> None:
        deadline_s = time.monotonic() + 10
        while True:
            try:
                put(server, worker)
                return
            except (OSError, RuntimeError):
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.05)

    await asyncio.to_thread(write)
    await until(lambda: worker.worker_id in seen.workers)


async def test_a_killed_member_is_left_at_once(members: list[Server]) -> None:
    seen = Seen()
    async with watching(rules(members), seen) as watcher:
        await _visible(seen, members[1], 1)
        members[0].kill()
        took_s = await until(lambda: watcher.reconnects and watcher.connected, 30)
        print(f"\nkill -9 of the serving member: watching again after {took_s:.3f} s (bar 0.2 s)")
        await _visible(seen, members[1], 2)
        assert watcher.relists == 0
        assert set(seen.workers) == {a_worker(1).worker_id, a_worker(2).worker_id}


def test_a_hung_members_silence_is_borne_for_less_than_five_seconds() -> None:
    """The longest it can take: hung just after a question was answered, and silent to the next one."""
    assert PROBE_EVERY_S + EtcdRules().call_s <= 4.7


async def test_a_hung_member_is_left_and_nothing_is_lost(members: list[Server]) -> None:
    seen = Seen()
    async with watching(rules(members), seen) as watcher:
        await _visible(seen, members[1], 1)
        members[0].pause()
        took_s = await until(lambda: watcher.reconnects and watcher.connected, 30)
        print(f"\nhung serving member: watching elsewhere after {took_s:.1f} s (bar 4.7 s)")
        await _visible(seen, members[1], 2)
        assert watcher.relists == 0


async def test_a_member_without_its_cluster_is_left(members: list[Server]) -> None:
    """It has no leader and would keep a stream open and silent; alone it is not believed alive."""
    seen = Seen()
    async with watching(rules(members[:1]), seen) as watcher:
        await _visible(seen, members[0], 1)
        members[1].pause()
        members[2].pause()
        await until(lambda: not watcher.connected)
        assert seen.workers
        members[1].resume()
        members[2].resume()
        await until(lambda: watcher.connected)
        await _visible(seen, members[0], 2)


async def test_a_call_goes_on_to_the_endpoint_that_answers() -> None:
    with etcd_members(1) as servers:
        dead = f"http://127.0.0.1:{free_ports(1)[0]}"
        async with Etcd(EtcdRules((dead, servers[0].url))) as etcd:
            assert (await etcd.range(KEYS.prefix.encode())).count == 0
            assert etcd.serving == servers[0].url


async def test_a_call_to_an_etcd_that_is_not_there_says_where() -> None:
    dead = f"http://127.0.0.1:{free_ports(1)[0]}"
    async with Etcd(EtcdRules((dead,))) as etcd:
        with pytest.raises(EtcdUnavailable, match=dead):
            await etcd.range(b"a")


async def test_a_hung_endpoint_costs_a_call_its_deadline_and_no_more() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel connects, nobody answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with Etcd(EtcdRules((url,), call_s=0.3)) as etcd:
            start_s = time.monotonic()
            with pytest.raises(EtcdUnavailable):
                await etcd.range(b"a")
            assert 0.25 < time.monotonic() - start_s < 3


async def test_what_is_no_etcd_is_named_so() -> None:
    async def web_page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>")
        writer.close()

    server = await asyncio.start_server(web_page, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with Etcd(EtcdRules((f"http://127.0.0.1:{port}",))) as etcd:
            with pytest.raises(EtcdUnavailable, match="HTTP 502, not an answer of etcd"):
                await etcd.range(b"a")
    finally:
        server.close()
