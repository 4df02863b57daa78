"""A worker keeps its key, gives it back, and never fights for it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from proxy.clock import SystemClock, sleep
from proxy.discovery import record
from proxy.discovery.etcd import Etcd
from proxy.roster import State, Worker
from tests.contract.registry_fleet import KEYS, a_worker, put, rules, running, until
from tests.support.etcd import Etcd as Server
from tests.support.etcd import etcd_server
from workers.registration import Registration

__all__ = ["etcd_server"]

WORKER = a_worker(1)
KEY = KEYS.worker(WORKER)


@pytest.fixture
async def etcd(etcd_server: Server) -> AsyncIterator[Etcd]:
    async with Etcd(rules([etcd_server])) as client:
        yield client


def registration(etcd: Etcd, worker: Worker = WORKER, **more: Any) -> Registration:
    more.setdefault("ttl_s", 3)
    return Registration(etcd, KEYS, worker, clock=SystemClock(), sleep=sleep, rng=random.Random(1), **more)


def said(server: Server) -> Worker | None:
    value = server.get(KEY)
    return KEYS.read(KEY, value) if value is not None else None


def leases(server: Server) -> list[str]:
    return [one["ID"] for one in server.call("/v3/lease/leases", {}).get("leases", [])]


async def test_a_worker_says_what_it_is_and_withdraws(etcd_server: Server, etcd: Etcd) -> None:
    ours = registration(etcd)
    async with running(ours.run):
        await until(lambda: ours.registered)
        assert said(etcd_server) == WORKER
        assert ours.lease_age_s < 3
        assert await ours.update(replace(WORKER, state=State.DRAINING))
        assert said(etcd_server) == replace(WORKER, state=State.DRAINING)
        assert await ours.withdraw()
    assert said(etcd_server) is None
    assert not leases(etcd_server)
    assert not ours.registered


async def test_the_key_outlives_its_ttl_while_the_worker_lives_and_not_after(
    etcd_server: Server, etcd: Etcd
) -> None:
    ours = registration(etcd, ttl_s=3)
    async with running(ours.run):
        await until(lambda: ours.registered)
        revision = int(etcd_server.call("/v3/kv/range", {"key": KEY.encode()})["kvs"][0]["mod_revision"])
        await asyncio.sleep(4)
        found = etcd_server.call("/v3/kv/range", {"key": KEY.encode()})["kvs"][0]
        assert int(found["mod_revision"]) == revision, "a renewal writes nothing"
    await until(lambda: said(etcd_server) is None)  # as after a crash: nobody withdrew


async def test_a_lost_lease_is_replaced(etcd_server: Server, etcd: Etcd) -> None:
    ours = registration(etcd)
    async with running(ours.run):
        await until(lambda: ours.registered)
        (lease,) = leases(etcd_server)
        etcd_server.call("/v3/lease/revoke", {"ID": lease})
        assert said(etcd_server) is None
        await until(lambda: said(etcd_server) == WORKER)
        assert leases(etcd_server) != [lease]


async def test_a_key_deleted_by_hand_is_written_again(etcd_server: Server, etcd: Etcd) -> None:
    ours = registration(etcd)
    async with running(ours.run):
        await until(lambda: ours.registered)
        etcd_server.delete(KEY)
        await until(lambda: said(etcd_server) == WORKER)


async def test_an_empty_etcd_gets_the_worker_anew(etcd_server: Server, etcd: Etcd) -> None:
    ours = registration(etcd)
    async with running(ours.run):
        await until(lambda: ours.registered)
        await etcd_server.restart(empty=True)
        await until(lambda: said(etcd_server) == WORKER)


async def test_a_dead_predecessors_key_is_taken_over(etcd_server: Server, etcd: Etcd) -> None:
    put(etcd_server, replace(WORKER, instance="dead"))
    ours = registration(etcd)
    async with running(ours.run):
        await until(lambda: ours.registered)
        assert said(etcd_server) == WORKER
        (found,) = etcd_server.call("/v3/kv/range", {"key": KEY.encode()})["kvs"]
        assert found["lease"] in leases(etcd_server)


async def test_who_was_taken_over_stands_back_until_the_other_goes(etcd_server: Server, etcd: Etcd) -> None:
    younger = replace(WORKER, instance="younger")
    elder, other = registration(etcd), registration(etcd, younger)
    async with running(elder.run):
        await until(lambda: elder.registered)
        async with running(other.run):
            await until(lambda: other.registered)
            await until(lambda: not elder.registered)
            for _ in range(4):
                assert not await elder.update(WORKER)
                assert said(etcd_server) == younger
            assert await other.withdraw()
        await until(lambda: said(etcd_server) == WORKER)


async def test_a_value_that_is_no_record_does_not_stop_a_worker(etcd_server: Server, etcd: Etcd) -> None:
    etcd_server.put(KEY, b"not json")
    ours = registration(etcd)
    async with running(ours.run):
        await until(lambda: said(etcd_server) == WORKER if etcd_server.get(KEY) != b"not json" else False)


async def test_a_worker_waits_for_an_etcd_that_is_away(etcd_server: Server, etcd: Etcd) -> None:
    etcd_server.stop()
    ours = registration(etcd)
    async with running(ours.run):
        await asyncio.sleep(0.5)
        assert not ours.registered
        assert not await ours.update(replace(WORKER, max_running_requests=7))
        await etcd_server.restart()
        await until(lambda: said(etcd_server) == replace(WORKER, max_running_requests=7))


async def test_a_wish_is_told_and_untold(etcd_server: Server, etcd: Etcd) -> None:
    told: list[bool] = []
    ours = registration(etcd, on_wish=told.append)
    async with running(ours.run):
        await until(lambda: ours.registered)
        etcd_server.put(KEYS.wish(WORKER.worker_id), b"")
        await until(lambda: told == [True])
        etcd_server.delete(KEYS.wish(WORKER.worker_id))
        await until(lambda: told == [True, False])


async def test_an_update_cannot_become_another_worker(etcd: Etcd) -> None:
    with pytest.raises(ValueError, match="id, model or role"):
        await registration(etcd).update(a_worker(2))


async def test_a_worker_without_an_instance_is_refused(etcd: Etcd) -> None:
    with pytest.raises(ValueError, match="instance"):
        registration(etcd, replace(WORKER, instance=None))


async def test_two_writers_of_one_value_leave_one_whole_value(etcd_server: Server, etcd: Etcd) -> None:
    """Updates while the first registration is under way: the last one stands."""
    ours = registration(etcd)
    async with running(ours.run):
        async with asyncio.TaskGroup() as group:
            for number in range(1, 6):
                group.create_task(ours.update(replace(WORKER, max_running_requests=number)))
        value = etcd_server.get(KEY)
        assert value == record.write(replace(WORKER, max_running_requests=5))
