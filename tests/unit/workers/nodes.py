"""Nodes for tests: a tree as sysfs has it, and the facts of a node of the recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from proxy.roster import Role
from workers.catalogue import load
from workers.fabric import Port, RdmaDevice
from workers.facts import Facts
from workers.gpus import Gpu, Gpus
from workers.launch_settings import LaunchSettings
from workers.weights import Weights

IPV4_GID = "0000:0000:0000:0000:0000:ffff:0a4d:0001"
LINK_LOCAL_GID = "fe80:0000:0000:0000:0000:00ff:fe00:0001"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


class Tree:
    """A machine's /sys and /proc below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def pci(self, path: str, numa: int = -1) -> Path:
        """The folder of a PCI device, given the bridges to it."""
        device = self.root / "sys/devices/pci0000:00" / path
        write(device / "numa_node", str(numa))
        return device

    def gpu(self, path: str, *, vendor: str = "0x1002", kind: str = "0x120000", numa: int = 0) -> None:
        device = self.pci(path, numa)
        write(device / "vendor", vendor)
        write(device / "class", kind)
        link = self.root / "sys/bus/pci/devices" / device.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(device)

    def nic(
        self,
        name: str,
        path: str,
        *,
        state: str = "4: ACTIVE",
        link_layer: str = "Ethernet",
        rate: str = "400 Gb/sec (4X NDR)",
        gids: tuple[tuple[str, str], ...] = (
            (LINK_LOCAL_GID, "IB/RoCE v1"),
            (LINK_LOCAL_GID, "RoCE v2"),
            (IPV4_GID, "IB/RoCE v1"),
            (IPV4_GID, "RoCE v2"),
        ),
        numa: int = 0,
    ) -> None:
        entry = self.root / "sys/class/infiniband" / name
        port = entry / "ports/1"
        write(port / "state", state)
        write(port / "link_layer", link_layer)
        write(port / "rate", rate)
        for index, (gid, kind) in enumerate(gids):
            write(port / "gids" / str(index), gid)
            write(port / "gid_attrs/types" / str(index), kind)
        (entry / "device").symlink_to(self.pci(path, numa))

    def kfd(self, node: int, target: int) -> None:
        write(
            self.root / f"sys/class/kfd/kfd/topology/nodes/{node}/properties",
            f"simd_count 1216\ngfx_target_version {target}",
        )


def mi300x(
    version: str, name: str | None = "Qwen3-32B", path: Path = Path("/models/Qwen3-32B"), **changes: Any
) -> Facts:
    """A node of AMD's recipe: eight MI300X, each with a CX-7 of its own."""
    devices = tuple(
        RdmaDevice(f"mlx5_{rank}", (Port(1, True, "Ethernet", 400.0, 3),), (f"0000:0{rank}:00.0",), rank // 4)
        for rank in range(8)
    )
    gpus = tuple(
        Gpu("amd", f"0000:0{rank}:01.0", (f"0000:0{rank}:00.0", f"0000:0{rank}:01.0"), rank // 4)
        for rank in range(8)
    )
    facts = Facts(
        engine_version=version,
        node="node1",
        address="10.0.0.1",
        catalogue=load(),
        name=name,
        places=(path,),
        weights=Weights(path, "sha256:00112233445566778899aabbccddeeff"),
        devices=devices,
        gpus=Gpus(gpus, ("gfx942",), "amdgpu"),
        interface="ens50f0",
    )
    return replace(facts, **changes)


def launch(role: Role = Role.PREFILL, model: str = "Qwen3-32B", **settings: Any) -> LaunchSettings:
    return LaunchSettings(role=role, model=model, **settings)
