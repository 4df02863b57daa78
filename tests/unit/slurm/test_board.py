"""The notice board, on a real etcd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deploy.slurm.job.board import Board, End, Status, lock, rules
from proxy.discovery.etcd import Etcd, EtcdRules
from proxy.errors import RegistryError
from tests.support.etcd import Etcd as Server
from tests.support.etcd import etcd_members

SECRET = "made for this job"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with etcd_members(1, extra=("--bcrypt-cost=4",)) as (one,):
        yield one


async def test_without_the_jobs_password_nobody_gets_in(server: Server) -> None:
    await lock(server.url, SECRET)
    await lock(server.url, SECRET)  # as after a restart of rank 0's agent: nothing changes
    async with Etcd(EtcdRules((server.url,))) as stranger:
        with pytest.raises(RegistryError):
            await stranger.range(b"/pd/", b"/pd0")
    async with Etcd(rules((server.url,), "another job's")) as stranger:
        with pytest.raises(RegistryError):
            await stranger.range(b"/pd/", b"/pd0")


async def test_with_it_only_the_jobs_own_keys_are_there(server: Server) -> None:
    await lock(server.url, SECRET)
    async with Etcd(rules((server.url,), SECRET)) as etcd:
        await etcd.range(b"/pd/v1/", b"/pd/v10")
        for other in (b"/before/", b"/zafter/"):
            with pytest.raises(RegistryError, match="permission denied"):
                await etcd.range(other)


async def test_what_a_node_says_is_read_by_all_until_it_leaves(server: Server) -> None:
    await lock(server.url, SECRET)
    async with Etcd(rules((server.url,), SECRET)) as etcd:
        first, second = Board(etcd, "77", 0), Board(etcd, "77", 12)
        await first.tell(Status("up"))
        await second.tell(Status("failed", "no GPU"))
        assert await first.nodes() == {0: Status("up"), 12: Status("failed", "no GPU")}
        await second.leave()
        assert await first.nodes() == {0: Status("up")}
        assert await Board(etcd, "78", 0).nodes() == {}


async def test_the_end_is_read_by_all_of_its_job_and_by_no_other(server: Server) -> None:
    await lock(server.url, SECRET)
    async with Etcd(rules((server.url,), SECRET)) as etcd:
        assert await Board(etcd, "77", 1).ended() is None
        await Board(etcd, "77", 0).end(End(3, "the reason"))
        assert await Board(etcd, "77", 1).ended() == End(3, "the reason")
        assert await Board(etcd, "78", 1).ended() is None
