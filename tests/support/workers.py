"""Real `pd-worker --engine sglang` processes for tests, with the stand-in for SGLang under them."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from proxy.discovery.record import Keys
from proxy.discovery.wire import prefix_end
from proxy.roster import Worker
from tests.support.etcd import Etcd, free_ports

ROOT = Path(__file__).resolve().parents[2]
START_S = 40.0
_KEYS = Keys("pd")


def make_engine_python(folder: Path, version: str = "0.5.23") -> Path:
    """An interpreter that finds the stand-in as the package sglang of that version."""
    package = folder / "site" / "sglang"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f'__version__ = "{version}"\n')
    (package / "launch_server.py").write_text(
        "from tests.support.fake_launch_server import main\n\nif __name__ == '__main__':\n    main()\n"
    )
    metadata = folder / "site" / f"sglang-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: sglang\nVersion: {version}\n")
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{folder / "site"}:{ROOT}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return python


def make_weights(folder: Path) -> Path:
    """A folder that looks like a model's."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"\0" * 16)
    return folder


def in_registry(server: Etcd, keys: Keys = _KEYS) -> list[Worker]:
    """Every worker in etcd, as it stands there."""
    first = keys.workers.encode()
    found = server.call("/v3/kv/range", {"key": first, "range_end": prefix_end(first)}).get("kvs", [])
    return [
        keys.read(base64.b64decode(kv["key"]).decode(), base64.b64decode(kv.get("value", ""))) for kv in found
    ]


class WorkerProcess:
    """A running pd-worker. `lines` is its console so far."""

    def __init__(
        self, process: asyncio.subprocess.Process, port: int, bootstrap_port: int, log: Path
    ) -> None:
        self.process = process
        self.port = port
        self.bootstrap_port = bootstrap_port
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self.lines: list[str] = []
        self._silent = asyncio.Event()

    async def read(self) -> None:
        """Collects the console until its end."""
        if self.process.stdout is not None:
            async for line in self.process.stdout:
                self.lines.append(line.decode(errors="replace").rstrip("\n"))
        self._silent.set()

    def told(self, *words: str) -> str | None:
        """The first line of the console that has all of these words."""
        return next((line for line in self.lines if all(word in line for word in words)), None)

    async def says(self, *words: str, within_s: float = START_S) -> str:
        """Waits for such a line."""
        deadline_s = time.monotonic() + within_s
        while (line := self.told(*words)) is None:
            gone = self.process.returncode
            assert gone is None, (words, gone, self.lines[-30:])
            assert time.monotonic() < deadline_s, (words, self.lines[-30:])
            await asyncio.sleep(0.02)
        return line

    async def ready(self, times: int = 1) -> dict[str, str]:
        """Waits for the ready line of its so-manieth life; its pairs."""
        deadline_s = time.monotonic() + START_S
        while len(found := [line for line in self.lines if line.startswith("pd-worker ready ")]) < times:
            gone = self.process.returncode
            assert gone is None, (gone, self.lines[-30:])
            assert time.monotonic() < deadline_s, self.lines[-30:]
            await asyncio.sleep(0.02)
        return dict(word.split("=", 1) for word in found[-1].split() if "=" in word)

    async def control(self, path: str, method: str = "GET", **more: Any) -> tuple[int, str]:
        """Asks its own port."""
        url = (await self.ready())["control"] + path
        async with aiohttp.ClientSession() as http, http.request(method, url, **more) as answer:
            return answer.status, await answer.text()

    async def pause(self) -> None:
        """Between two looks."""
        await asyncio.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ends(self, within_s: float = START_S) -> int:
        """Waits for the end, and of its console too; the exit code."""
        async with asyncio.timeout(within_s):
            code = await self.process.wait()
            await self._silent.wait()
        return code

    def tree(self) -> list[int]:
        """The wrapper's descendants now."""
        return descendants(self.process.pid)


def descendants(pid: int) -> list[int]:
    """Living processes below `pid`."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, wave = [], parents.get(pid, [])
    while wave:
        found += wave
        wave = [child for one in wave for child in parents.get(one, [])]
    return found


def alive(pids: Sequence[int]) -> list[int]:
    """Those that have not ended."""

    def lives(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    return [pid for pid in pids if lives(pid)]


@asynccontextmanager
async def start_worker(
    engine_python: Path,
    weights: Path,
    role: str = "decode",
    *flags: str,
    behaviour: Mapping[str, Any] | None = None,
    log_dir: Path,
    port: int = 0,
    bootstrap_port: int = 0,
    reads_console: bool = True,
) -> AsyncIterator[WorkerProcess]:
    """pd-worker over the stand-in; at the end it is killed, and nothing of it may be left."""
    free = free_ports(2)
    port, bootstrap_port = port or free[0], bootstrap_port or free[1]
    command = [
        sys.executable, "-m", "workers", "--engine", "sglang",
        "--engine-python", str(engine_python), "--model", str(weights), "--role", role,
        "--host", "127.0.0.1", "--port", str(port), "--log-dir", str(log_dir),
        *(["--bootstrap-port", str(bootstrap_port)] if role == "prefill" else []),
        "--advertise-host", "127.0.0.1", "--allow-tcp",
        "--drain-settle-s", "0.3", "--load-interval-s", "0.2", "--restart-wait-s", "0.1",
        *flags,
    ]  # fmt: skip
    unread, console = (0, asyncio.subprocess.PIPE) if reads_console else os.pipe()
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        stdout=console,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "FAKE_SGLANG": json.dumps(dict(behaviour or {}))},
    )
    worker = WorkerProcess(process, port, bootstrap_port, log_dir)
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(worker.read())
        try:
            yield worker
        finally:
            left = worker.tree()
            if process.returncode is None:
                process.kill()
                await process.wait()
            deadline_s = time.monotonic() + 10
            while alive(left):
                assert time.monotonic() < deadline_s, f"left behind: {alive(left)}"
                await asyncio.sleep(0.02)
            reading.cancel()
            for descriptor in () if reads_console else (unread, console):
                os.close(descriptor)
