"""What deploy/compose/compose.yaml says, and the same services on this machine's loopback."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.etcd import etcd_binary
from tests.unit.deploy.needed import DEPLOY, documents

FOLDER = DEPLOY / "compose"
PYTHON = "/opt/pd/.venv/bin/python"
ENGINES = ("prefill-1", "prefill-2", "decode-1", "decode-2")

Service = dict[str, Any]


@cache
def project() -> dict[str, Any]:
    """The file, its anchors merged."""
    (found,) = documents(FOLDER / "compose.yaml")
    return dict(found)


def services() -> dict[str, Service]:
    return dict(project()["services"])


def mounts(service: Service) -> dict[str, str]:
    """Path in the container -> path beside compose.yaml, or the name of a volume."""
    pairs = [one.split(":")[:2] for one in service.get("volumes", [])]
    return {inside: outside for outside, inside in pairs}


class Loopback:
    """Every address of the file, `name:port`, is a free port of 127.0.0.1; what is mounted is in a folder.

    Args:
        ports: free ones, as many as the file has addresses.
        folder: holds copies of the mounted files, and what stands for the named volumes.
    """

    def __init__(self, ports: Sequence[int], folder: Path) -> None:
        self._free = iter(ports)
        self._taken: dict[tuple[str, str], int] = {}
        self.folder = folder

    def port(self, name: str, port: str | int) -> int:
        """The port that stands for a port of a service."""
        key = (name, str(port))
        if key not in self._taken:
            self._taken[key] = next(self._free)
        return self._taken[key]

    def here(self, name: str, word: str) -> str:
        """A word of a command of the service `name`, with what stands for its addresses and folders."""
        flag, _, value = word.rpartition("=")
        for inside, outside in mounts(services()[name]).items():
            laid = self._laid(name, inside, outside)
            if value == inside or value.startswith(f"{inside}/"):
                value = value.replace(inside, str(laid), 1)
        word = f"{flag}={value}" if flag else value
        for other in (*services(), "127.0.0.1", "0.0.0.0"):
            for port in ("30000", "8998", "2379", "2380", "9090"):
                owner = name if other in ("127.0.0.1", "0.0.0.0") else other
                if f"{other}:{port}" in word:
                    word = word.replace(f"{other}:{port}", f"127.0.0.1:{self.port(owner, port)}")
        flag, _, value = word.partition("=")
        if flag in ("--port", "--bootstrap-port"):
            return f"{flag}={self.port(name, value)}"
        return "--host=127.0.0.1" if flag == "--host" else word

    def _laid(self, name: str, inside: str, outside: str) -> Path:
        """What is mounted, in a folder that is the service's root here."""
        target = self.folder / name / inside.lstrip("/")
        if outside in project()["volumes"]:
            target.mkdir(parents=True, exist_ok=True)
        elif not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(FOLDER / outside, target)
        return target

    def command(self, name: str) -> list[str]:
        """The service's whole command line."""
        service = services()[name]
        programs = {
            "pd-etcd": [etcd_binary()],
            "pd-proxy": [sys.executable, "-m", "proxy"],
            "pd-worker": [sys.executable, "-m", "workers"],
        }
        (entry,) = service.get("entrypoint", [service["image"]])
        words = [self.here(name, word) for word in service["command"]]
        if name == "proxy":
            words.append(f"--port={self.port(name, 30000)}")
        return [*programs[entry], *words]

    def probe(self, name: str) -> list[str]:
        """The command of its health check."""
        kind, *words = services()[name]["healthcheck"]["test"]
        assert kind == "CMD", "no shell is needed"
        programs = {PYTHON: sys.executable, "etcdctl": str(Path(etcd_binary()).with_name("etcdctl"))}
        first, *rest = (self.here(name, word) for word in words)
        return [programs[first], *(word for word in rest if word != "-I")]
