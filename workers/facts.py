"""What a launch plan needs to know of this node, gathered before anything is decided."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

from workers.catalogue import Catalogue, load
from workers.errors import ConfigurationError
from workers.fabric import RdmaDevice, find_devices
from workers.gpus import Gpus, find_gpus
from workers.launch_settings import LaunchSettings
from workers.weights import Weights, candidates, is_path, locate

VERSION_LIMIT_S = 60.0
"""why: the first start of an interpreter in a fresh container, from a slow disk, takes tens of seconds."""
_ASK_VERSION = "import importlib.metadata as m; print(m.version('sglang'))"
_SIOCGIFADDR = 0x8915
EVERY_ADDRESS = ("0.0.0.0", "::")
_NO_ENVIRON: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Facts:
    """This node, this engine, these weights."""

    engine_version: str
    node: str
    """The host's own name."""
    address: str | None
    """At which other nodes reach this one; None: not to be found out."""
    catalogue: Catalogue
    name: str | None
    """The model's name in the catalogue; None: the model is a path, and not known."""
    places: tuple[Path, ...] = ()
    """Where the weights were looked for."""
    weights: Weights | None = None
    devices: tuple[RdmaDevice, ...] = ()
    gpus: Gpus = field(default_factory=Gpus)
    interface: str | None = None
    """The network interface that has the address; None: not known."""
    environ: Mapping[str, str] = field(default_factory=lambda: _NO_ENVIRON)


def gather(settings: LaunchSettings, environ: Mapping[str, str], root: Path = Path("/")) -> Facts:
    """Looks at this node; takes as long as the engine's interpreter takes to start, VERSION_LIMIT_S at most.

    Args:
        settings: what is to be launched.
        environ: our own environment.
        root: of the file system in which sysfs and procfs are; another one in tests.

    Raises:
        ConfigurationError: the model is unknown, the catalogue wrong, or the engine's version not to be had.
    """
    catalogue = load(settings.catalogue)
    name = catalogue.name_of(settings.model)
    if name is None and settings.model_path is None and not is_path(settings.model):
        raise catalogue.unknown(settings.model)
    folders = catalogue.folders_of(name) if name else (settings.model.rstrip("/").rpartition("/")[2],)
    places = candidates(settings.model, folders, settings.model_path, settings.model_dirs)
    node = socket.gethostname()
    address = reached_at(settings, node)
    return Facts(
        engine_version=settings.engine_version or ask_version(settings.engine_python, environ),
        node=settings.node_name or node,
        address=address,
        catalogue=catalogue,
        name=name,
        places=tuple(places),
        weights=locate(places),
        devices=find_devices(root),
        gpus=find_gpus(root),
        interface=interface_of(address) if address else None,
        environ=environ,
    )


def ask_version(python: str, environ: Mapping[str, str], limit_s: float = VERSION_LIMIT_S) -> str:
    """The version of SGLang that an interpreter has; SGLang itself is not imported, that takes a minute.

    Raises:
        ConfigurationError: the interpreter does not run, or has no SGLang.
    """
    try:
        done = subprocess.run(
            [python, "-c", _ASK_VERSION],
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        raise ConfigurationError(
            f"engine_python: cannot run {python}: {error.strerror}: name the interpreter that has SGLang"
        ) from None
    except subprocess.TimeoutExpired:
        raise ConfigurationError(
            f"engine_python: {python} did not tell SGLang's version within {limit_s:.0f} s: "
            "is its disk slow? --engine-version VERSION spares the question"
        ) from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ConfigurationError(
            f"engine_python: {python} has no SGLang ({last}): name the interpreter that has it, "
            "or its version with --engine-version if it is run elsewhere"
        )
    return (done.stdout.split() or [""])[-1]


def reached_at(settings: LaunchSettings, node: str) -> str | None:
    """The address that was said; else the one that the engine is to listen on, if it is one; else a guess."""
    if settings.advertise_host is not None:
        return settings.advertise_host
    if settings.host is not None and settings.host not in EVERY_ADDRESS:
        return settings.host
    return find_address(settings.etcd_endpoints, node)


def find_address(endpoints: Sequence[str], node: str) -> str | None:
    """The address at which others reach this node: the one that talks to etcd, else the one of its name.

    Nothing is sent: connecting a UDP socket only chooses the route.
    """
    for endpoint in endpoints:
        parts = urlsplit(endpoint)
        address = _source_towards(parts.hostname or "", parts.port or 2379)
        if address is not None:
            return address
    try:
        found = [str(info[4][0]) for info in socket.getaddrinfo(node, None, type=socket.SOCK_STREAM)]
    except OSError:
        return None
    return next((address for address in found if not address.startswith(("127.", "::1", "fe80"))), None)


def _source_towards(host: str, port: int) -> str | None:
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError:
        return None


def interface_of(address: str) -> str | None:
    """The interface that has an IPv4 address or the address of a name; None: none has, or it is IPv6."""
    try:
        wanted = socket.inet_aton(socket.gethostbyname(address))
    except OSError:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, interface in socket.if_nameindex():
            try:
                request = struct.pack("256s", os.fsencode(interface)[:15])
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
            except OSError:
                continue
            if answer[20:24] == wanted:
                return interface
    return None
