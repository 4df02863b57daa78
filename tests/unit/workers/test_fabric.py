from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.workers.nodes import IPV4_GID, LINK_LOCAL_GID, Tree
from workers.errors import ConfigurationError
from workers.fabric import Fabric, choose, find_devices
from workers.gpus import find_gpus


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Two sockets; each has a switch with a GPU and a NIC, and the second the node's own network as well."""
    tree = Tree(tmp_path)
    tree.gpu("0000:00:01.0/0000:05:00.0", numa=0)
    tree.gpu("0000:00:02.0/0000:25:00.0", numa=1)
    tree.nic("mlx5_0", "0000:00:01.0/0000:06:00.0", numa=0)
    tree.nic("mlx5_2", "0000:00:02.0/0000:26:00.0", numa=1)
    tree.nic("mlx5_1", "0000:00:03.0/0000:46:00.0", rate="25 Gb/sec (1X EDR)", numa=1)
    return tree


def chosen(tree: Tree, wanted: str = "auto", *, allow_tcp: bool = False) -> Fabric:
    return choose(wanted, find_devices(tree.root), find_gpus(tree.root).devices, allow_tcp=allow_tcp)


def test_auto_takes_the_fast_devices_near_the_gpus_and_says_what_it_left_out(tree: Tree) -> None:
    tree.nic("mlx5_3", "0000:00:04.0/0000:66:00.0", numa=2)
    fabric = chosen(tree)
    assert fabric.names == ("mlx5_0", "mlx5_2")
    assert fabric.gid_index == 3
    assert any("mlx5_1" in note for note in fabric.notes)
    assert any("mlx5_3" in note for note in fabric.notes)


def test_where_no_switch_is_shared_the_numa_node_decides(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.gpu("0000:00:01.0/0000:05:00.0", numa=1)
    tree.nic("mlx5_0", "0000:00:07.0/0000:06:00.0", numa=0)
    tree.nic("mlx5_1", "0000:00:08.0/0000:07:00.0", numa=1)
    assert chosen(tree).names == ("mlx5_1",)


def test_of_two_root_complexes_on_one_socket_the_gpus_own_is_nearer(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.gpu("0000:00:01.0/0000:05:00.0")
    tree.nic("mlx5_0", "../pci0000:80/0000:80:01.0/0000:86:00.0")
    tree.nic("mlx5_1", "0000:00:02.0/0000:06:00.0")
    assert chosen(tree).names == ("mlx5_1",)


def test_without_gpus_auto_takes_all_fast_devices(tree: Tree) -> None:
    assert choose("auto", find_devices(tree.root)).names == ("mlx5_0", "mlx5_2")


def test_a_device_whose_port_is_down_is_not_taken(tree: Tree) -> None:
    (tree.root / "sys/class/infiniband/mlx5_0/ports/1/state").write_text("1: DOWN\n")
    assert chosen(tree).names == ("mlx5_2",)
    with pytest.raises(ConfigurationError, match="mlx5_0 has no active port"):
        chosen(tree, "mlx5_0")


def test_a_list_is_taken_in_its_order_and_checked(tree: Tree) -> None:
    assert chosen(tree, "mlx5_2, mlx5_1,mlx5_2").names == ("mlx5_2", "mlx5_1")
    with pytest.raises(ConfigurationError, match=r"mlx5_9 is not on this node, which has mlx5_0, mlx5_1"):
        chosen(tree, "mlx5_0,mlx5_9")


@pytest.mark.parametrize("wanted", ["", ","])
def test_an_empty_list_is_refused(tree: Tree, wanted: str) -> None:
    with pytest.raises(ConfigurationError, match="empty list"):
        chosen(tree, wanted)


def test_tcp_is_taken_only_when_it_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--allow-tcp"):
        chosen(Tree(tmp_path))
    fabric = chosen(Tree(tmp_path), allow_tcp=True)
    assert fabric.names == ()
    assert "TCP" in fabric.notes[0]


def test_rdma_is_taken_also_where_tcp_is_allowed(tree: Tree) -> None:
    assert chosen(tree, allow_tcp=True).names == ("mlx5_0", "mlx5_2")


def test_the_gid_is_that_of_roce_v2_over_ipv4(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    zero = "0000:0000:0000:0000:0000:ffff:0000:0000"
    gids = ((IPV4_GID, "IB/RoCE v1"), (LINK_LOCAL_GID, "RoCE v2"), (zero, "RoCE v2"), (IPV4_GID, "RoCE v2"))
    tree.nic("mlx5_0", "0000:06:00.0", gids=gids)
    tree.nic("mlx5_1", "0000:07:00.0", gids=((LINK_LOCAL_GID, "RoCE v2"),))
    first, second = find_devices(tree.root)
    assert first.active is not None
    assert first.active.gid_index == 3
    assert second.active is not None
    assert second.active.gid_index is None


def test_infiniband_needs_no_gid_index(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.nic("mlx5_0", "0000:06:00.0", link_layer="InfiniBand")
    assert chosen(tree).gid_index is None


def test_devices_with_different_gids_get_no_common_index(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.nic("mlx5_0", "0000:06:00.0")
    tree.nic("mlx5_1", "0000:07:00.0", gids=((IPV4_GID, "RoCE v2"),))
    assert chosen(tree).gid_index is None


def test_accelerators_of_both_vendors_are_gpus_and_a_management_card_is_none(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.gpu("0000:05:00.0", vendor="0x1002", kind="0x120000")
    tree.gpu("0000:06:00.0", vendor="0x10de", kind="0x030200")
    tree.gpu("0000:07:00.0", vendor="0x1a03", kind="0x030000")
    tree.gpu("0000:08:00.0", vendor="0x1002", kind="0x060400")
    assert [(gpu.vendor, gpu.address) for gpu in find_gpus(tmp_path).devices] == [
        ("amd", "0000:05:00.0"),
        ("nvidia", "0000:06:00.0"),
    ]


def test_the_architecture_is_read_from_the_topology(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    for node, target in enumerate((0, 90402, 90402, 90010, 90500)):
        tree.kfd(node, target)
    found = find_gpus(tmp_path)
    assert found.driver == "amdgpu"
    assert found.architectures == ("gfx942", "gfx90a", "gfx950")


def test_a_machine_without_any_of_it_has_nothing(tmp_path: Path) -> None:
    assert find_devices(tmp_path) == ()
    assert find_gpus(tmp_path).devices == ()
    assert find_gpus(tmp_path).driver is None
