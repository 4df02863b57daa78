"""What the doctor looks at: limits, memory, device nodes, names, ports, the engine's interpreter."""

from __future__ import annotations

import os
import re
import resource
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from proxy.discovery.etcd import Etcd, EtcdRules
from proxy.discovery.record import BadRecord, Keys
from proxy.errors import RegistryError
from proxy.roster import Role
from workers.errors import ConfigurationError
from workers.fabric import RdmaDevice, find_devices
from workers.facts import Facts, ask_version, gather, reached_at
from workers.gpus import Gpus, find_gpus, read_text
from workers.launch_settings import LaunchSettings
from workers.plan import make_plan

IMPORT_LIMIT_S = 180.0
"""why: importing SGLang with torch from a cold disk takes a minute."""
TRANSFER_MODULES = {"mooncake": "mooncake.engine", "nixl": "nixl", "mori": "mori"}
_CAP_IPC_LOCK = 14
_DEVICE_NODES = ("dev/kfd", "dev/dri", "dev/infiniband", "dev/nvidiactl")


@dataclass(frozen=True, slots=True)
class Node:
    """All that the checks are made of. Text that says an error is for people; None is none."""

    nofile: int
    """Hard limit of open files, for SGLang raises its soft one itself; -1: none."""
    memlock_bytes: int
    """Soft limit of locked memory; -1: none, or we hold CAP_IPC_LOCK, to which it does not apply."""
    shm_bytes: int | None
    """Size of /dev/shm; None: there is none."""
    shm_free_bytes: int | None
    device_nodes: Mapping[str, bool]
    """Those that exist, and whether we may read and write them (for a folder, what is in it)."""
    devices: tuple[RdmaDevice, ...]
    gpus: Gpus
    allow_tcp: bool
    name: str
    name_resolves_to: tuple[str, ...]
    address: str | None
    """At which others reach this node."""
    address_is_ours: bool
    ports: Mapping[int, str | None]
    """Those that the engine wants, and why one cannot be listened on."""
    imports: Mapping[str, str | None]
    """Modules in the engine's interpreter, and why one cannot be imported."""
    engine_version: str | None
    plan_error: str | None
    facts: Facts | None
    """None: no model was said, or it is not known."""
    other_fingerprints: Mapping[str, str] = field(default_factory=dict)
    """Of the same model on other nodes, by worker id, as the registry has them."""
    registry_error: str | None = None


def examine(settings: LaunchSettings, environ: Mapping[str, str], root: Path = Path("/")) -> Node:
    """Looks at this node; slow, for the engine's libraries are imported in its own interpreter."""
    name = socket.gethostname()
    address = reached_at(settings, name)
    shm = _size_of(root / "dev/shm")
    version, facts, plan_error = _plan(settings, environ, root)
    ports = [settings.port] + ([settings.bootstrap_port] if settings.role is Role.PREFILL else [])
    modules = [settings.engine_module, TRANSFER_MODULES[settings.transfer_backend]]
    return Node(
        nofile=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        memlock_bytes=_memlock_bytes(root),
        shm_bytes=shm[0],
        shm_free_bytes=shm[1],
        device_nodes={f"/{node}": _usable(root / node) for node in _DEVICE_NODES if (root / node).exists()},
        devices=find_devices(root),
        gpus=find_gpus(root),
        allow_tcp=settings.allow_tcp,
        name=name,
        name_resolves_to=_resolve(name),
        address=address,
        address_is_ours=address is not None and why_not_listen(address, 0) is None,
        ports={port: why_not_listen(settings.host or "", port) for port in ports},
        imports={module: _why_not_import(settings.engine_python, module, environ) for module in modules},
        engine_version=version,
        plan_error=plan_error,
        facts=facts,
    )


async def other_fingerprints(rules: EtcdRules, root: str, model: str) -> dict[str, str]:
    """The fingerprints of a model's weights on all nodes that the registry knows, by worker id.

    Raises:
        RegistryError: etcd does not answer.
    """
    keys = Keys(root)
    found: dict[str, str] = {}
    async with Etcd(rules) as etcd:
        async for page in etcd.pages(keys.workers.encode()):
            for pair in page.kvs:
                try:
                    worker = keys.read(pair.key.decode(), pair.value)
                except (BadRecord, UnicodeDecodeError):
                    continue  # the proxy tells of those
                if worker.model == model and worker.weights_fingerprint is not None:
                    found[worker.worker_id] = worker.weights_fingerprint
    return found


async def ask_registry(rules: EtcdRules, root: str, model: str) -> tuple[dict[str, str], str | None]:
    """The other nodes' fingerprints, or why they are not known."""
    try:
        return await other_fingerprints(rules, root, model), None
    except RegistryError as error:
        return {}, error.message


def _plan(
    settings: LaunchSettings, environ: Mapping[str, str], root: Path
) -> tuple[str | None, Facts | None, str | None]:
    """The engine's version, the facts, and why no plan can be made of them."""
    try:
        version = settings.engine_version or ask_version(settings.engine_python, environ)
    except ConfigurationError as error:
        return None, None, error.message
    if not settings.model:
        return version, None, None
    settings = settings.model_copy(update={"engine_version": version})
    try:
        facts = gather(settings, environ, root)
    except ConfigurationError as error:
        return version, None, error.message
    try:
        make_plan(settings, facts)
    except ConfigurationError as error:
        return version, facts, error.message
    return version, facts, None


def _memlock_bytes(root: Path) -> int:
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", read_text(root / "proc/self/status") or "", re.MULTILINE)
    if found and int(found.group(1), 16) >> _CAP_IPC_LOCK & 1:
        return -1
    return resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]


def _size_of(folder: Path) -> tuple[int | None, int | None]:
    try:
        found = os.statvfs(folder)
    except OSError:
        return None, None
    return found.f_frsize * found.f_blocks, found.f_frsize * found.f_bavail


def _usable(node: Path) -> bool:
    nodes = list(node.iterdir()) if node.is_dir() else [node]
    used = [one for one in nodes if one.name.startswith(("renderD", "uverbs"))] or nodes
    return all(one.is_dir() or os.access(one, os.R_OK | os.W_OK) for one in used)


def _resolve(name: str) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return ()
    return tuple(dict.fromkeys(str(info[4][0]) for info in found))


def why_not_listen(host: str, port: int) -> str | None:
    """Why nobody could listen there now; None: one could. An empty host is all addresses."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _why_not_import(python: str, module: str, environ: Mapping[str, str]) -> str | None:
    try:
        done = subprocess.run(
            [python, "-c", f"import {module}"],
            capture_output=True,
            text=True,
            timeout=IMPORT_LIMIT_S,
            check=False,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        return f"cannot run {python}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"no answer within {IMPORT_LIMIT_S:.0f} s"
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
