"""The processes of a job, as command lines: etcd, the proxy, a worker, the benchmark's sweep."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from deploy.slurm.job.layout import Place
from deploy.slurm.job.settings import JobSettings
from proxy.roster import Role

ETCD_USER = "pd"
REGISTRY_ROOT = "pd"
SCRATCH = "{scratch}"
"""Stands in a command for the node's own folder, which the agent makes and removes."""
_PYTHON = (sys.executable, *(("-I",) if sys.flags.isolated else ()))
"""Isolated where we are: a PYTHONPATH that an SGLang image sets for its own Python is not for ours."""
WORKER_WORDS = len(_PYTHON) + 2
"""Words of a worker's command before pd-worker's own flags."""
_SWEEP = Path(__file__).resolve().parents[1] / "benchmark_sweep.py"


class Service(msgspec.Struct, frozen=True):
    """One process of a node."""

    name: str
    argv: tuple[str, ...]
    log: str
    """Both its outputs are added there."""
    grace_s: float
    """From SIGTERM to what comes next: for a worker a second SIGTERM, which hurries, else SIGKILL."""
    restarts: int
    """After so many lives in a row that were short, it is given up."""
    env: dict[str, str] = {}
    """Added to the job's environment."""


def etcd(settings: JobSettings, place: Place, addresses: Sequence[str]) -> Service:
    """The member of the registry on this node.

    Args:
        settings: the job's.
        place: the node's part.
        addresses: of all members' nodes, in the order of their ranks.
    """
    client, peer = settings.etcd_port, settings.etcd_port + 1
    own = addresses[place.rank]
    cluster = ",".join(f"etcd-{rank}={_url(address, peer)}" for rank, address in enumerate(addresses))
    argv = (
        etcd_binary() or "etcd",
        *("--name", f"etcd-{place.rank}", "--data-dir", f"{SCRATCH}/etcd", "--log-level", "warn"),
        *("--listen-client-urls", f"{_url(own, client)},http://127.0.0.1:{client}"),
        *("--advertise-client-urls", _url(own, client), "--listen-peer-urls", _url(own, peer)),
        *("--initial-advertise-peer-urls", _url(own, peer), "--initial-cluster", cluster),
        *("--initial-cluster-token", f"job-{settings.job}", "--initial-cluster-state", "new"),
        *("--bcrypt-cost", "4"),  # the password is 192 random bits: nothing is gained by a slow log-in
    )
    return Service("etcd", argv, _log(settings, place, "etcd"), grace_s=4, restarts=5)


def etcd_urls(settings: JobSettings, addresses: Sequence[str]) -> tuple[str, ...]:
    """Where the registry's members answer."""
    return tuple(_url(address, settings.etcd_port) for address in addresses[: int(settings.etcd_members)])


def etcd_binary() -> str | None:
    """An etcd on the PATH, or the one beside our interpreter."""
    return shutil.which("etcd") or shutil.which("etcd", path=str(Path(sys.executable).parent))


def proxy(settings: JobSettings, place: Place, registry: Sequence[str]) -> Service:
    """The proxy."""
    argv = (
        *(*_PYTHON, "-m", "proxy", "--port", str(settings.proxy_port), "--etcd", ",".join(registry)),
        *("--discovery-root", REGISTRY_ROOT, "--discovery-user", ETCD_USER),
        *("--discovery-snapshot-path", f"{SCRATCH}/workers.json"),
        *settings.proxy_arguments,
    )
    return Service("proxy", argv, _log(settings, place, "proxy"), grace_s=6, restarts=5)


def worker(
    settings: JobSettings, place: Place, address: str, weights: str | None, registry: Sequence[str]
) -> Service:
    """The worker: pd-worker, which launches and watches the engine."""
    role = place.role or Role.REGULAR
    own = settings.prefill_arguments if role is Role.PREFILL else settings.decode_arguments
    argv = [*_PYTHON, "-m", "workers", "--engine", settings.engine, "--role", role.value]
    argv += ["--model", settings.model, "--port", str(place.worker_port)]
    if role is Role.PREFILL:
        argv += ["--bootstrap-port", str(settings.bootstrap_port)]
    log = _log(settings, place, role.value)
    if settings.engine == "sglang":
        argv += _sglang(settings, place, address, weights)
    else:
        argv += ["--host", address]
    if registry:
        argv += ["--etcd-endpoints", ",".join(registry), "--etcd-user", ETCD_USER]
        argv += ["--registry-root", REGISTRY_ROOT]
    main_log = log if settings.engine == "simulated" else main_log_of(settings, place)
    return Service(role.value, (*argv, *own), main_log, grace_s=8, restarts=0)


def _sglang(settings: JobSettings, place: Place, address: str, weights: str | None) -> list[str]:
    """pd-worker writes the engine's log by itself, under the recipe's name."""
    role = place.role or Role.REGULAR
    words = ["--advertise-host", address, "--engine-python", settings.engine_python, "--no-console"]
    words += ["--ib-devices", settings.ib_devices, "--transfer-backend", settings.transfer]
    words += ["--allow-tcp"] if settings.allow_tcp else []
    words += ["--model-path", weights] if weights else []
    words += ["--catalogue", str(settings.catalogue)] if settings.catalogue else []
    words += ["--start-limit-s", str(settings.start_s), "--node-name", place.node]
    return [*words, "--log-dir", str(settings.logs), "--log-name", f"{role.value}_NODE{place.rank}"]


def sweep(settings: JobSettings, place: Place, tokenizer: str | None) -> Service:
    """The benchmark; its own files have the recipe's names, its screen goes to the node's main log."""
    env = {
        "BENCHMARK_HOST": "127.0.0.1",
        "BENCHMARK_PORT": str(settings.proxy_port),
        "xP": str(settings.prefills),
        "yD": str(settings.decodes),
    }
    env |= {"BENCHMARK_TOKENIZER": tokenizer} if tokenizer and not settings.benchmark_tokenizer else {}
    argv = (sys.executable, "-E", str(_SWEEP))  # -I would hide what lies beside it
    return Service("benchmark", argv, main_log_of(settings, place), grace_s=6, restarts=0, env=env)


def main_log_of(settings: JobSettings, place: Place) -> str:
    """The node's main log, under the recipe's name."""
    return str(settings.logs / f"pd_sglang_bench_serving.sh_NODE{place.rank}.log")


def _log(settings: JobSettings, place: Place, name: str) -> str:
    return str(settings.logs / f"{name}_NODE{place.rank}.log")


def _url(address: str, port: int) -> str:
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def passwords(secret: str) -> dict[str, str]:
    """What proxy and worker log in to etcd with; in the environment, for a process list shows arguments."""
    return {"PD_DISCOVERY_PASSWORD": secret, "PD_WORKER_ETCD_PASSWORD": secret}


def without_ours(environ: Mapping[str, str]) -> dict[str, str]:
    """The job's environment as its processes may have it."""
    return {name: value for name, value in environ.items() if not name.startswith("PD_JOB_")}
