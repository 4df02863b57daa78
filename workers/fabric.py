"""RDMA devices: what sysfs says of them, and which of them the KV transfer is to use.

Mooncake falls back to TCP without a word where a device or its GID is wrong, so that nothing is left to it:
devices are named, and TCP is used only if that was asked for.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from workers.errors import ConfigurationError
from workers.gpus import Gpu, numa_node, pci_path, read_text

AUTO = "auto"
_MOST_GIDS = 256


@dataclass(frozen=True, slots=True)
class Port:
    """One port of an RDMA device. An inactive one can carry nothing."""

    number: int
    active: bool
    link_layer: str
    """Ethernet (RoCE) or InfiniBand."""
    gbit_per_s: float
    """0: the driver does not say."""
    gid_index: int | None
    """RoCE: of the first RoCE v2 GID of an IPv4 address; None: there is none. InfiniBand: 0."""


@dataclass(frozen=True, slots=True)
class RdmaDevice:
    """One device of /sys/class/infiniband."""

    name: str
    ports: tuple[Port, ...]
    path: tuple[str, ...]
    """The bridges above it, from the root complex down to itself."""
    numa_node: int | None

    @property
    def active(self) -> Port | None:
        """Its first active port."""
        return next((port for port in self.ports if port.active), None)


@dataclass(frozen=True, slots=True)
class Fabric:
    """What carries the KV cache: these devices, or TCP where there are none."""

    devices: tuple[RdmaDevice, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The devices' names, as --disaggregation-ib-device wants them."""
        return tuple(device.name for device in self.devices)

    @property
    def gid_index(self) -> int | None:
        """The one GID index that is right for all RoCE devices; None: no RoCE, or they differ."""
        ports = [device.active for device in self.devices]
        found = {port.gid_index for port in ports if port is not None and port.link_layer == "Ethernet"}
        return found.pop() if len(found) == 1 else None


def find_devices(root: Path = Path("/")) -> tuple[RdmaDevice, ...]:
    """Reads all RDMA devices below `root`: the machine's, or a tree that a test has made."""
    folder = root / "sys/class/infiniband"
    return tuple(_device(entry) for entry in sorted(folder.iterdir())) if folder.is_dir() else ()


def _device(entry: Path) -> RdmaDevice:
    ports = entry / "ports"
    numbers = sorted(int(port.name) for port in ports.iterdir()) if ports.is_dir() else []
    return RdmaDevice(
        name=entry.name,
        ports=tuple(_port(ports / str(number), number) for number in numbers),
        path=pci_path(entry / "device"),
        numa_node=numa_node(entry / "device"),
    )


def _port(folder: Path, number: int) -> Port:
    link_layer = read_text(folder / "link_layer") or "unknown"
    rate = (read_text(folder / "rate") or "").partition(" ")[0]
    return Port(
        number=number,
        active=(read_text(folder / "state") or "").endswith("ACTIVE"),
        link_layer=link_layer,
        gbit_per_s=float(rate) if rate.replace(".", "", 1).isdigit() else 0.0,
        gid_index=_roce_gid(folder) if link_layer == "Ethernet" else 0,
    )


def _roce_gid(folder: Path) -> int | None:
    """Routable, and what NICs and switches are set up for: RoCE v2 over IPv4."""
    for index in range(_MOST_GIDS):
        text = read_text(folder / "gids" / str(index))
        if text is None:
            return None
        if read_text(folder / "gid_attrs/types" / str(index)) == "RoCE v2" and _is_ipv4(text):
            return index
    return None


def _is_ipv4(gid: str) -> bool:
    try:
        mapped = ipaddress.IPv6Address(gid).ipv4_mapped
    except ValueError:
        return False
    return mapped is not None and not mapped.is_unspecified


def choose(
    wanted: str, devices: Sequence[RdmaDevice], gpus: Sequence[Gpu] = (), *, allow_tcp: bool = False
) -> Fabric:
    """The devices to use: `auto`, or names separated by commas.

    Raises:
        ConfigurationError: a named device is not there or has no active port; or there is none at all and
            TCP was not allowed.
    """
    if wanted != AUTO:
        return Fabric(_named([name.strip() for name in wanted.split(",") if name.strip()], devices))
    usable = [device for device in devices if device.active is not None]
    if usable:
        return _nearest(usable, gpus)
    if allow_tcp:
        return Fabric(notes=("no RDMA device is active: the KV cache goes over TCP, which is slow",))
    there = ", ".join(device.name for device in devices)
    raise ConfigurationError(
        f"ib_devices: no RDMA device has an active port ({there or 'none is in /sys/class/infiniband'}): "
        "check `ibstat` and that the container sees the devices, or allow the slow way with --allow-tcp"
    )


def _named(names: Iterable[str], devices: Sequence[RdmaDevice]) -> tuple[RdmaDevice, ...]:
    known = {device.name: device for device in devices}
    chosen = [known[name] for name in dict.fromkeys(names) if name in known]
    missing = [name for name in names if name not in known]
    if missing or not chosen:
        raise ConfigurationError(
            f"ib_devices: {', '.join(missing) or 'an empty list'} is not on this node, which has "
            f"{', '.join(known) or 'no RDMA device'}: mend the list, or use --ib-devices auto"
        )
    dead = [device.name for device in chosen if device.active is None]
    if dead:
        raise ConfigurationError(
            f"ib_devices: {', '.join(dead)} has no active port: check the cable and `ibstat`, or leave it out"
        )
    return tuple(chosen)


def _nearest(usable: Sequence[RdmaDevice], gpus: Sequence[Gpu]) -> Fabric:
    """For each GPU its nearest among the fastest; without GPUs, all of the fastest.

    The slower ones are the node's own network, not the fabric.
    """
    fastest = max(_rate(device) for device in usable)
    fast = [device for device in usable if _rate(device) == fastest]
    left = [device.name for device in usable if _rate(device) < fastest]
    notes = [f"slower RDMA devices are left out: {', '.join(left)}"] if left else []
    if not gpus:
        return Fabric(tuple(fast), tuple(notes))
    near = {device.name: device for gpu in gpus for device in _nearest_to(gpu, fast)}
    far = [device.name for device in fast if device.name not in near]
    if far:
        notes.append(f"RDMA devices that are near no GPU are left out: {', '.join(far)}")
    return Fabric(tuple(device for device in fast if device.name in near), tuple(notes))


def _rate(device: RdmaDevice) -> float:
    return device.active.gbit_per_s if device.active is not None else 0.0


def _nearest_to(gpu: Gpu, devices: Sequence[RdmaDevice]) -> list[RdmaDevice]:
    best = max(_nearness(gpu, device) for device in devices)
    return [device for device in devices if _nearness(gpu, device) == best]


def _nearness(gpu: Gpu, device: RdmaDevice) -> tuple[int, bool]:
    """PCI bridges that both hang under, then whether they share a NUMA node."""
    shared = 0
    for ours, theirs in zip(gpu.path, device.path, strict=False):
        if ours != theirs:
            break
        shared += 1
    same = gpu.numa_node is not None and gpu.numa_node == device.numa_node
    return shared, same
