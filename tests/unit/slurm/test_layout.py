"""Who is where: rank 0 the proxy, then the prefills, then the decodes."""

from __future__ import annotations

import pytest

from deploy.slurm.job.layout import places, ports
from proxy.errors import SettingsError
from tests.unit.slurm.environs import placed, settings


def test_the_proxy_comes_first_then_the_prefills_then_the_decodes() -> None:
    assert [each.title for each in placed(settings())] == ["proxy", "prefill", "prefill", "decode", "decode"]


def test_colocated_the_proxy_is_beside_the_first_prefill() -> None:
    colocated = placed(settings(PD_JOB_LAYOUT="colocated"))
    assert [each.title for each in colocated] == ["proxy and prefill", "prefill", "decode", "decode"]


def test_beside_the_proxy_a_worker_gives_way_and_nowhere_else() -> None:
    colocated = placed(settings(PD_JOB_LAYOUT="colocated"))
    assert [each.worker_port for each in colocated] == [30001, 30000, 30000, 30000]


def test_a_worker_gives_way_to_every_neighbour() -> None:
    of = settings(PD_JOB_LAYOUT="colocated", PD_JOB_BOOTSTRAP_PORT="30001", PD_JOB_ETCD_PORT="30002")
    assert placed(of)[0].worker_port == 30004


def test_no_port_is_listened_on_twice_on_a_node() -> None:
    of = settings(PD_JOB_LAYOUT="colocated", PD_JOB_ETCD_MEMBERS="3")
    expected = {30000: "the proxy", 30001: "the prefill", 8998: "the prefill's bootstrap server"}
    assert ports(of, placed(of)[0]) == expected | {2379: "etcd", 2380: "etcd's peers"}
    assert ports(of, placed(of)[3]) == {30000: "the decode"}


@pytest.mark.parametrize(("members", "expected"), [("1", [True, False, False]), ("3", [True, True, True])])
def test_etcd_is_on_the_first_nodes(members: str, expected: list[bool]) -> None:
    assert [each.has_etcd for each in placed(settings(PD_JOB_ETCD_MEMBERS=members))[:3]] == expected


def test_too_few_nodes_are_an_error_that_says_how_many() -> None:
    with pytest.raises(SettingsError, match=r"need 5 nodes, the job has 3: sbatch -N 5 -n 5"):
        places(settings(), ["n1", "n2", "n3"])


def test_more_nodes_than_needed_stay_idle() -> None:
    assert len(places(settings(), [f"n{number}" for number in range(9)])) == 5
