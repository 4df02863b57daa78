"""What will be launched, decided before anything is: pure, printable, and the same for the same facts."""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from proxy.discovery.record import Keys
from proxy.roster import Role, Worker
from workers.catalogue import Recipe
from workers.command import check_owners, overlay, parse, redacted, redacted_env, shell_lines, words
from workers.errors import ConfigurationError
from workers.fabric import Fabric, choose
from workers.facts import Facts
from workers.feasibility import check_nodes, check_sizes
from workers.generations import Flag, Version, attention_dp, check_supported, translate
from workers.launch_settings import LaunchSettings

_ANY_HOST = "0.0.0.0"
_ANY_HOST_V6 = "::"
_NO_DEVICES = "none"
_YES = ("1", "true", "yes", "on")


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """One engine's process, and its place in the registry."""

    role: Role
    model_name: str
    """As clients and the registry know it."""
    model_path: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    """What is added to our own environment, or changed in it."""
    host: str
    """The address that the engine listens on."""
    advertise_host: str
    """The address at which other nodes reach it."""
    port: int
    bootstrap_port: int | None
    """Prefill only."""
    log_file: Path
    registry_key: str
    worker_id: str
    engine_version: str
    tp_size: int
    dp_size: int
    nnodes: int
    node_rank: int
    registers: bool
    """Rank 0 does, for the whole worker."""
    transfer_backend: str
    weights_fingerprint: str | None
    node: str
    """This node's name in the registry."""
    notes: tuple[str, ...] = ()
    """What people should know: what was left out, respelt, or is doubtful."""

    def render(self) -> str:
        """For people, and as a command for a shell; secrets are taken out."""
        size = f"tp {self.tp_size}, dp {self.dp_size}"
        if self.nnodes > 1:
            size += f", node {self.node_rank} of {self.nnodes}"
        facts = [
            ("role", self.role.value),
            ("model", f"{self.model_name} in {self.model_path}"),
            ("engine", f"sglang {self.engine_version}, {size}"),
            ("weights", self.weights_fingerprint or "not found"),
            ("listens on", f"{self.host}:{self.port}"),
            ("reached at", f"http://{_bracketed(self.advertise_host)}:{self.port}"),
            ("bootstrap", self._bootstrap()),
            ("transfer", self.transfer_backend if self.role is not Role.REGULAR else "none"),
            ("log", str(self.log_file)),
            ("registry key", self.registry_key if self.registers else "none: rank 0 registers the worker"),
        ]
        lines = [f"{name + ':':<14}{value}" for name, value in facts]
        lines += [f"{'note:':<14}{note}" for note in self.notes]
        variables = [f"{name}={shlex.quote(value)}" for name, value in redacted_env(self.env).items()]
        command = [*variables, *shell_lines(redacted(self.argv))]
        return "\n".join(lines) + "\n\n" + " \\\n    ".join(command) + "\n"

    def _bootstrap(self) -> str:
        return f"{_bracketed(self.advertise_host)}:{self.bootstrap_port}" if self.bootstrap_port else "none"

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values; secrets are taken out."""
        return asdict(self) | {
            "role": self.role.value,
            "argv": redacted(self.argv),
            "env": redacted_env(self.env),
            "log_file": str(self.log_file),
            "notes": list(self.notes),
        }


def make_plan(settings: LaunchSettings, facts: Facts) -> LaunchPlan:
    """Decides everything.

    Raises:
        ConfigurationError: it cannot work; the message names the setting, what is wrong and what to do.
    """
    version = Version.parse(facts.engine_version)
    notes = list(check_supported(version, settings.transfer_backend))
    check_nodes(settings)
    gpu = facts.gpus.devices[0].vendor if facts.gpus.devices else None
    if gpu is None and facts.name is not None:
        notes.append("no GPU is seen here: the catalogue's flags for a kind of GPU are left out")
    recipe = facts.catalogue.recipe(
        facts.name, settings.role, version, gpu, dp_attention=settings.dp_attention
    )
    tp_size, dp_size = settings.tp_size or recipe.tp_size, settings.dp_size or 1
    check_sizes(settings, len(facts.gpus.devices), tp_size, dp_size)
    fabric = _fabric(settings, facts)
    notes += fabric.notes
    path = _model_path(settings, facts, notes)
    address = _address(settings, facts)
    host = settings.host or (_ANY_HOST_V6 if _is_v6(address) else _ANY_HOST)
    flags = _own_flags(settings, version, host, tp_size, dp_size, fabric)
    flags += _other_flags(settings, recipe, version, notes)
    name = settings.served_model_name or facts.name or _last_part(settings.model)
    worker = Worker(
        worker_id=settings.worker_id or f"{settings.role}-{address}-{settings.port}",
        url=f"http://{_bracketed(address)}:{settings.port}",
        role=settings.role,
        model=name,
    )
    head = [Flag("--model-path", (path,)), Flag("--served-model-name", (name,))]
    return LaunchPlan(
        role=settings.role,
        model_name=name,
        model_path=path,
        argv=(settings.engine_python, "-m", settings.engine_module, *words(head + flags)),
        env=_environment(settings, facts, recipe, fabric, address),
        host=host,
        advertise_host=address,
        port=settings.port,
        bootstrap_port=settings.bootstrap_port if settings.role is Role.PREFILL else None,
        log_file=settings.log_dir / f"{settings.log_name or f'{settings.role}_NODE{settings.node_rank}'}.log",
        registry_key=Keys(settings.registry_root).worker(worker),
        worker_id=worker.worker_id,
        engine_version=str(version),
        tp_size=tp_size,
        dp_size=dp_size,
        nnodes=settings.nnodes,
        node_rank=settings.node_rank,
        registers=settings.node_rank == 0,
        transfer_backend=settings.transfer_backend,
        weights_fingerprint=facts.weights.fingerprint if facts.weights else None,
        node=facts.node,
        notes=tuple(notes),
    )


def _fabric(settings: LaunchSettings, facts: Facts) -> Fabric:
    if settings.role is Role.REGULAR:
        return Fabric()
    forced = facts.environ.get("MC_FORCE_TCP", "").lower() in _YES
    if forced or settings.ib_devices == _NO_DEVICES:
        if not (forced or settings.allow_tcp):
            raise ConfigurationError(
                "ib_devices: without any the KV cache goes over TCP, which is slow: allow it with --allow-tcp"
            )
        return choose("auto", (), allow_tcp=True)
    return choose(settings.ib_devices, facts.devices, facts.gpus.devices, allow_tcp=settings.allow_tcp)


def _model_path(settings: LaunchSettings, facts: Facts, notes: list[str]) -> str:
    """The folder of the weights; in a dry run, where it should be."""
    found = facts.weights
    if found is None:
        looked = ", ".join(map(str, facts.places)) or "nowhere"
        wrong = f"model: no weights of {settings.model} on this node (looked for config.json in: {looked})"
        advice = "copy them there, or name their folder with --model-path or --model-dirs"
    else:
        wrong = f"model: {found.path} lacks {', '.join(found.missing[:3])}"
        advice = "copy the folder anew, whole; with --load-format after the `--` it is not checked"
    if found is None or (found.missing and not _loads_otherwise(settings)):
        if not settings.dry_run:
            raise ConfigurationError(f"{wrong}: {advice}")
        notes.append(f"{wrong}: a launch would be refused")
    if found is not None:
        return str(found.path)
    return str(facts.places[0]) if facts.places else settings.model


def _loads_otherwise(settings: LaunchSettings) -> bool:
    """Dummy weights, for one, need no files."""
    return any(flag.name == "--load-format" for flag in parse(settings.engine_arguments, "engine_arguments"))


def _address(settings: LaunchSettings, facts: Facts) -> str:
    if facts.address is None:
        raise ConfigurationError(
            f"advertise_host: cannot find out at which address other nodes reach {facts.node}: "
            "say it with --advertise-host"
        )
    if settings.host is not None and _is_loopback(settings.host) and not _is_loopback(facts.address):
        raise ConfigurationError(
            f"host: an engine on {settings.host} cannot be reached at {facts.address}: "
            "leave out --host, or give --advertise-host 127.0.0.1 if all runs on this node"
        )
    return facts.address.strip("[]")


def _own_flags(
    settings: LaunchSettings, version: Version, host: str, tp_size: int, dp_size: int, fabric: Fabric
) -> list[Flag]:
    """The flags of which the registry tells, so that nobody else may set them."""
    flags = [Flag("--host", (host,)), Flag("--port", (str(settings.port),))]
    flags.append(Flag("--tp-size", (str(tp_size),)))
    if settings.dp_attention:
        flags += attention_dp(dp_size, version)
    elif dp_size > 1:
        flags.append(Flag("--dp-size", (str(dp_size),)))
    if settings.nnodes > 1:
        flags.append(Flag("--nnodes", (str(settings.nnodes),)))
        flags.append(Flag("--node-rank", (str(settings.node_rank),)))
        flags.append(Flag("--dist-init-addr", (settings.dist_init_addr or "",)))
    if settings.role is not Role.REGULAR:
        flags.append(Flag("--disaggregation-mode", (settings.role.value,)))
        flags.append(Flag("--disaggregation-transfer-backend", (settings.transfer_backend,)))
        if settings.role is Role.PREFILL:
            flags.append(Flag("--disaggregation-bootstrap-port", (str(settings.bootstrap_port),)))
        if fabric.names:
            flags.append(Flag("--disaggregation-ib-device", (",".join(fabric.names),)))
    if settings.api_key is not None:
        flags.append(Flag("--api-key", (settings.api_key,)))
    return flags


def _other_flags(settings: LaunchSettings, recipe: Recipe, version: Version, notes: list[str]) -> list[Flag]:
    """The catalogue's, and over them the user's, as this engine spells them."""
    asked = parse(settings.engine_arguments, "engine_arguments")
    check_owners(recipe.flags, "catalogue")
    check_owners(asked, "engine_arguments")
    from_catalogue = translate(recipe.flags, version)
    from_user = translate(asked, version)
    notes += from_user.notes
    return overlay([*from_catalogue.flags, *from_user.flags])


def _environment(
    settings: LaunchSettings, facts: Facts, recipe: Recipe, fabric: Fabric, address: str
) -> dict[str, str]:
    """The catalogue's variables and those that the network asks for; what is set outside stays as it is."""
    env = dict(recipe.env)
    env["PYTHONUNBUFFERED"] = "1"  # or the log lags behind by a block
    if _is_address(address):
        env["SGLANG_HOST_IP"] = address  # its own choice is the route to the internet
    if fabric.gid_index is not None:
        env["MC_GID_INDEX"] = env["NCCL_IB_GID_INDEX"] = str(fabric.gid_index)
    if settings.role is not Role.REGULAR and settings.transfer_backend == "mooncake" and not fabric.names:
        env["MC_FORCE_TCP"] = "1"
    if settings.nnodes > 1 and facts.interface is not None:
        env["GLOO_SOCKET_IFNAME"] = env["NCCL_SOCKET_IFNAME"] = facts.interface
    return {name: value for name, value in sorted(env.items()) if name not in facts.environ}


def _last_part(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2] or model


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host.strip("[]") in ("localhost", "::1") or host.startswith("127.")


def _is_v6(host: str) -> bool:
    return ":" in host


def _bracketed(host: str) -> str:
    return f"[{host}]" if _is_v6(host) else host
