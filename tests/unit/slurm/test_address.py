"""At which address a node is reached: asked of the kernel."""

from __future__ import annotations

import pytest

from deploy.slurm.job.address import is_loopback, own_address, resolve
from tests.unit.slurm.environs import settings


def test_the_route_to_the_head_node_decides() -> None:
    assert own_address(settings(), "127.0.0.1").address == "127.0.0.1"


def test_a_name_that_does_not_resolve_is_told_with_a_way_out() -> None:
    found = own_address(settings(), "no-such-node.invalid")
    assert found.address is None
    assert found.problem.startswith("the name no-such-node.invalid does not resolve: set PD_JOB_INTERFACE")


def test_an_interface_has_its_address() -> None:
    assert own_address(settings(PD_JOB_INTERFACE="lo"), "no-such-node.invalid").address == "127.0.0.1"


def test_an_interface_that_is_not_there_is_told_with_those_that_are() -> None:
    found = own_address(settings(PD_JOB_INTERFACE="ib99"), "127.0.0.1")
    assert found.address is None
    assert found.problem.startswith("PD_JOB_INTERFACE: ib99 has no IPv4 address here; interfaces: ")
    assert "lo" in found.problem


@pytest.mark.parametrize("subnet", ["127.0.0.0/8", "127.0.0.1/32"])
def test_the_address_in_a_subnet_is_found(subnet: str) -> None:
    assert own_address(settings(PD_JOB_SUBNET=subnet), "no-such-node.invalid").address == "127.0.0.1"


def test_a_subnet_without_an_address_here_is_told() -> None:
    found = own_address(settings(PD_JOB_SUBNET="240.0.0.0/24"), "127.0.0.1")
    assert found.address is None
    assert found.problem.startswith("PD_JOB_SUBNET: this node has no address in 240.0.0.0/24")


def test_names_and_loopbacks_are_told_apart() -> None:
    assert resolve("no-such-node.invalid") is None
    assert is_loopback("127.0.1.1")
    assert is_loopback("::1")
    assert not is_loopback("10.0.0.1")
