"""The GPUs of this node, read from sysfs and procfs, without any vendor's tool."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_VENDORS = {"0x1002": "amd", "0x10de": "nvidia"}
_CLASSES = ("0x0300", "0x0302", "0x0380", "0x1200")
"""Display controllers, and processing accelerators, which is what an MI300X is."""
_PCI = re.compile(r"pci[0-9a-f]{4,}:[0-9a-f]{2}|[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_MOST = 64
"""why: no node has more; a tree that is larger is not sysfs."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU on the PCI bus."""

    vendor: str
    """amd or nvidia."""
    address: str
    """On the PCI bus, as 0000:26:00.0."""
    path: tuple[str, ...]
    """The bridges above it, from the root complex down to itself."""
    numa_node: int | None
    """None: the machine has only one, or does not say."""


@dataclass(frozen=True, slots=True)
class Gpus:
    """What is known of the node's GPUs."""

    devices: tuple[Gpu, ...] = ()
    architectures: tuple[str, ...] = ()
    """gfx942 and the like (AMD), product names (NVIDIA), each once; empty: the driver does not say."""
    driver: str | None = None
    """amdgpu or nvidia, once its kernel driver is up."""


def read_text(path: Path) -> str | None:
    """A small file's text without its line end; None if it cannot be read, for any reason."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def numa_node(device: Path) -> int | None:
    """The NUMA node of a device's folder in sysfs."""
    text = read_text(device / "numa_node")
    return int(text) if text is not None and text.isdigit() else None


def pci_path(device: Path) -> tuple[str, ...]:
    """The way to a device: its root complex, the PCI addresses of the bridges, its own."""
    return tuple(part for part in device.resolve().parts if _PCI.fullmatch(part))


def find_gpus(root: Path = Path("/")) -> Gpus:
    """Looks for GPUs below `root`: the machine's, or a tree that a test has made."""
    devices = _on_the_bus(root / "sys/bus/pci/devices")
    kfd = _kfd_architectures(root / "sys/class/kfd/kfd/topology/nodes")
    if kfd:
        return Gpus(devices, kfd, "amdgpu")
    nvidia = _nvidia_models(root / "proc/driver/nvidia/gpus")
    if nvidia or (root / "proc/driver/nvidia/version").exists():
        return Gpus(devices, nvidia, "nvidia")
    return Gpus(devices)


def _on_the_bus(folder: Path) -> tuple[Gpu, ...]:
    found: list[Gpu] = []
    for device in sorted(folder.iterdir()) if folder.is_dir() else ():
        vendor = _VENDORS.get(read_text(device / "vendor") or "")
        kind = read_text(device / "class") or ""
        if vendor is not None and kind.startswith(_CLASSES):
            found.append(Gpu(vendor, device.name, pci_path(device), numa_node(device)))
    return tuple(found[:_MOST])


def _kfd_architectures(nodes: Path) -> tuple[str, ...]:
    """From `gfx_target_version`, which is major * 10000 + minor * 100 + stepping; CPUs have 0."""
    names: dict[str, None] = {}
    for node in sorted(nodes.iterdir()) if nodes.is_dir() else ():
        found = re.search(r"^gfx_target_version (\d+)$", read_text(node / "properties") or "", re.MULTILINE)
        number = int(found.group(1)) if found else 0
        if number:
            major, minor, stepping = number // 10000, number // 100 % 100, number % 100
            names[f"gfx{major}{minor:x}{stepping:x}"] = None
    return tuple(names)


def _nvidia_models(folder: Path) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for gpu in sorted(folder.iterdir()) if folder.is_dir() else ():
        found = re.search(r"^Model:\s*(.+)$", read_text(gpu / "information") or "", re.MULTILINE)
        if found:
            names[found.group(1).strip()] = None
    return tuple(names)
