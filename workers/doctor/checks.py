"""The checks: each a pure function of what was found on the node."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from workers.doctor.finding import Finding, failure, ok, warning
from workers.doctor.node import Node

_NOFILE = 65535
"""why: to so many SGLang raises its own limit."""
_NOFILE_LEAST = 8192
"""why: a request takes three sockets on a worker, and the recipe runs up to 1,024 at once."""
_SHM_BYTES = 8 * 2**30
"""why: NCCL and SGLang's own ranks talk through it; docker's default of 64 MiB ends in a bus error."""
_SHM_LEAST_BYTES = 2**30
_GIB = 2**30
_TUNED = ("gfx942", "gfx950")
"""What the catalogue's flags for AMD were made for: MI300X, MI325X, MI350X, MI355X."""


def nofile(node: Node) -> Iterator[Finding]:
    """Open files."""
    if node.nofile == -1 or node.nofile >= _NOFILE:
        yield ok("nofile", "unlimited" if node.nofile == -1 else f"{node.nofile} open files")
        return
    said = f"{node.nofile} open files at most"
    advice = "ulimit -n 1048576, or for a container --ulimit nofile=1048576"
    yield (failure if node.nofile < _NOFILE_LEAST else warning)("nofile", said, advice)


def memlock(node: Node) -> Iterator[Finding]:
    """Locked memory: RDMA pins the whole KV cache."""
    if node.memlock_bytes == -1:
        yield ok("memlock", "unlimited")
        return
    said = f"{node.memlock_bytes // 1024} KiB of locked memory at most"
    advice = "ulimit -l unlimited, or for a container --ulimit memlock=-1"
    yield (failure if node.devices else warning)("memlock", said, advice)


def shm(node: Node) -> Iterator[Finding]:
    """Shared memory."""
    advice = "for a container --shm-size 32g or --ipc host"
    if node.shm_bytes is None:
        yield failure("shm", "there is no /dev/shm", advice)
    elif node.shm_bytes < _SHM_LEAST_BYTES:
        yield failure("shm", f"/dev/shm has {node.shm_bytes / _GIB:.2f} GiB", advice)
    elif min(node.shm_bytes, node.shm_free_bytes or 0) < _SHM_BYTES:
        free = (node.shm_free_bytes or 0) / _GIB
        yield warning("shm", f"/dev/shm has {node.shm_bytes / _GIB:.1f} GiB, {free:.1f} of it free", advice)
    else:
        yield ok("shm", f"/dev/shm has {node.shm_bytes / _GIB:.0f} GiB")


def gpus(node: Node) -> Iterator[Finding]:
    """GPUs on the bus, their driver, their kind."""
    there = len(node.gpus.devices)
    if not there and node.gpus.driver is None:
        yield failure("gpu", "no GPU is seen", "give the container the GPUs, or start on a GPU node")
    elif node.gpus.driver is None:
        yield failure("gpu", f"{there} on the bus, but no driver is up", "load amdgpu or nvidia; see dmesg")
    else:
        kinds = ", ".join(node.gpus.architectures) or "of unknown kind"
        odd = [
            kind for kind in node.gpus.architectures if node.gpus.driver == "amdgpu" and kind not in _TUNED
        ]
        said = f"{there} with {node.gpus.driver}: {kinds}"
        if odd:
            yield warning(
                "gpu", said, f"the catalogue was made for {' and '.join(_TUNED)}: check its flags (--dry-run)"
            )
        else:
            yield ok("gpu", said)


def device_nodes(node: Node) -> Iterator[Finding]:
    """/dev/kfd and /dev/dri or /dev/nvidiactl, and /dev/infiniband."""
    wanted = {"amdgpu": ("/dev/kfd", "/dev/dri"), "nvidia": ("/dev/nvidiactl",)}.get(
        node.gpus.driver or "", ()
    )
    if node.devices:
        wanted += ("/dev/infiniband",)
    for name in wanted:
        if name not in node.device_nodes:
            yield failure(name, "not there", f"give it to the container: --device {name}")
        elif not node.device_nodes[name]:
            yield failure(name, "no permission to read and write", "add the user to its group, see ls -l")
        else:
            yield ok(name, "there, and may be used")


def rdma(node: Node) -> Iterator[Finding]:
    """Active ports, and their GIDs."""
    active = [(device, device.active) for device in node.devices if device.active is not None]
    if not active:
        there = f"{len(node.devices)} devices, none with an active port" if node.devices else "no device"
        if node.allow_tcp:
            yield warning("rdma", there, "the KV cache goes over TCP, slowly, as --allow-tcp allows")
        else:
            yield failure("rdma", there, "check ibstat, cables, the container's devices; or --allow-tcp")
        return
    yield ok("rdma", ", ".join(f"{d.name} ({p.link_layer}, {p.gbit_per_s:.0f} Gb/s)" for d, p in active if p))
    roce = {device.name: port.gid_index for device, port in active if port and port.link_layer == "Ethernet"}
    lacking = [name for name, index in roce.items() if index is None]
    if lacking:
        yield failure(
            "gid",
            f"no RoCE v2 GID of an IPv4 address on {', '.join(lacking)}",
            "give its interface an IPv4 address, or leave the device out with --ib-devices",
        )
    elif len(set(roce.values())) > 1:
        each = ", ".join(f"{name} {index}" for name, index in roce.items())
        yield warning(
            "gid", f"not the same on all devices: {each}", "MC_GID_INDEX is left unset: make them equal"
        )
    elif roce:
        yield ok("gid", f"index {next(iter(roce.values()))} is RoCE v2 over IPv4 on all")


def names(node: Node) -> Iterator[Finding]:
    """What others reach this node by."""
    if node.address is None:
        yield failure("address", "no address that others could use", "say it with --advertise-host")
    elif not node.address_is_ours:
        yield failure("address", f"{node.address} is not of this node", "correct --advertise-host")
    elif node.address.startswith("127."):
        yield warning("address", f"{node.address} is good on this node only", "--advertise-host for others")
    else:
        yield ok("address", f"others reach this node at {node.address}")
    if not node.name_resolves_to:
        yield failure("host name", f"{node.name} does not resolve", "add it to /etc/hosts or the DNS")
    else:
        yield ok("host name", f"{node.name} is {', '.join(node.name_resolves_to)}")


def ports(node: Node) -> Iterator[Finding]:
    """Those that the engine will listen on."""
    for port, reason in node.ports.items():
        if reason is None:
            yield ok(f"port {port}", "free")
        else:
            yield failure(f"port {port}", reason, f"ss -ltnp 'sport = :{port}' shows who has it")


def engine(node: Node) -> Iterator[Finding]:
    """SGLang and the transfer engine, in the engine's interpreter."""
    if node.engine_version is not None:
        yield ok("sglang", f"version {node.engine_version}")
    else:
        yield failure(
            "sglang", "its version is not known", "set --engine-python to the interpreter with SGLang"
        )
    for module, reason in node.imports.items():
        if reason is None:
            yield ok(module, "can be imported")
        else:
            yield failure(module, reason, "install it in the engine's interpreter, with its libraries")


def weights(node: Node) -> Iterator[Finding]:
    """There, whole, and the same as on the other nodes."""
    if node.facts is None:
        return
    found = node.facts.weights
    if found is None:
        places = ", ".join(map(str, node.facts.places)) or "nowhere: no --model-dirs"
        yield failure("weights", f"not found; looked in {places}", "copy them there, or set --model-path")
        return
    if found.missing:
        yield failure(
            "weights", f"{found.path} lacks {', '.join(found.missing[:3])}", "copy the folder anew, whole"
        )
    else:
        yield ok("weights", f"{found.path}, {found.fingerprint}")
    if node.registry_error is not None:
        yield warning("same weights", f"not compared: {node.registry_error}", "check --etcd-endpoints")
    others = [name for name, other in node.other_fingerprints.items() if other != found.fingerprint]
    if others:
        yield failure(
            "same weights", f"{', '.join(others[:3])} has others", "copy one and the same folder to all nodes"
        )
    elif node.other_fingerprints:
        yield ok("same weights", f"as on {len(node.other_fingerprints)} workers of the registry")


def plan(node: Node) -> Iterator[Finding]:
    """Whether a launch would be refused."""
    if node.plan_error is not None:
        yield failure("plan", node.plan_error, "mend the setting; --dry-run shows the plan")
    elif node.facts is not None:
        yield ok("plan", "can be made; --dry-run shows it")


CHECKS: tuple[Callable[[Node], Iterator[Finding]], ...] = (
    nofile,
    memlock,
    shm,
    gpus,
    device_nodes,
    rdma,
    names,
    ports,
    engine,
    weights,
    plan,
)


def check(node: Node) -> list[Finding]:
    """All findings, in the order of the report."""
    return [finding for one in CHECKS for finding in one(node)]
