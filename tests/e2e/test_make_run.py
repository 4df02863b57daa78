"""The launcher behind `make run`, as a user meets it: real processes, real signals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from tests.support.proxies import eventually

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0
END_S = 30.0

pytestmark = pytest.mark.timeout(150)


@dataclass
class Run:
    """A launcher that has said that everything is ready."""

    process: asyncio.subprocess.Process
    port: int
    said: str
    children: list[int]
    temp: Path

    async def end(self) -> int:
        async with asyncio.timeout(END_S):
            return await self.process.wait()

    def child(self, name: str) -> int:
        """The pid of a service, by the name that the launcher gave it."""
        url = next(line.split()[1] for line in self.said.splitlines() if line.split()[:1] == [name])
        port = url.rsplit(":", 1)[1]
        return next(pid for pid in self.children if port in _arguments(pid))


@contextlib.asynccontextmanager
async def launched(temp: Path, before: Callable[[], object] | None = None) -> AsyncIterator[Run]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await launcher(port, temp, before)
    children: list[int] = []
    try:
        assert process.stdout
        said = ""
        async with asyncio.timeout(START_S):
            while "Ctrl-C ends everything" not in said:
                line = (await process.stdout.readline()).decode()
                assert line, f"it ended early: {said}\n{(await process.communicate())[1].decode()}"
                said += line
        children = list(_children_of(process.pid))
        yield Run(process, port, said, children, temp)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
    await _all_gone(children)


async def launcher(
    port: int, temp: Path, before: Callable[[], object] | None = None
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.local.run", "--port", str(port)),
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temp)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=before,
    )


async def test_the_recipes_curl_line_is_answered_and_sigint_ends_all_without_leftovers(
    tmp_path: Path,
) -> None:
    # As a background job of a script: it inherits SIGINT ignored.
    async with launched(tmp_path, lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) as run:
        assert f"curl -X POST http://127.0.0.1:{run.port}/generate" in run.said
        for name in ("etcd", "prefill-1", "prefill-2", "decode-1", "decode-2", "proxy"):
            assert name in run.said
        body = {"text": "Let me tell you a story ", "sampling_params": {"temperature": 0.3}}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://127.0.0.1:{run.port}/generate", json=body) as response,
        ):
            assert response.status == 200
            assert (await response.json())["text"]
        assert len(run.children) == 6
        run.process.send_signal(signal.SIGINT)
        assert await run.end() == 0
        assert os.listdir(tmp_path) == []


async def test_sigterm_ends_all_without_leftovers(tmp_path: Path) -> None:
    async with launched(tmp_path) as run:
        run.process.send_signal(signal.SIGTERM)
        assert await run.end() == 0
        assert os.listdir(tmp_path) == []


async def test_a_killed_launcher_takes_its_children_along(tmp_path: Path) -> None:
    async with launched(tmp_path) as run:
        run.process.kill()
        assert await run.end() == -signal.SIGKILL
        await _all_gone(run.children)


async def test_a_child_that_dies_ends_the_run_and_is_named(tmp_path: Path) -> None:
    async with launched(tmp_path) as run:
        os.kill(run.child("decode-1"), signal.SIGKILL)
        assert await run.end() == 1
        assert run.process.stderr
        told = (await run.process.stderr.read()).decode()
        assert "decode-1 was ended by SIGKILL" in told
        (kept,) = os.listdir(tmp_path)
        assert str(tmp_path / kept) in told
        assert "decode-1.log" in os.listdir(tmp_path / kept)


async def test_a_taken_port_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = await launcher(port, tmp_path)
        async with asyncio.timeout(END_S):
            _, told = await process.communicate()
    assert process.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}".encode() in told
    assert b"make run PORT=" in told
    assert os.listdir(tmp_path) == []


def _children_of(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (task / "children").read_text().split())


def _arguments(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"  # a zombie has ended; only nobody has asked for its exit code


async def _all_gone(pids: list[int]) -> None:
    await eventually(lambda: not any(map(_is_running, pids)), 5.0)
