"""Keeping a process: real processes, a clock that is set by hand."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deploy.slurm.job.keeper import LONG_LIFE_S, Surroundings, kept
from deploy.slurm.job.services import SCRATCH, Service
from tests.support.proxies import eventually

LIMIT_S = 20.0


class Watched:
    """What a keeper said and did."""

    def __init__(self, folder: Path) -> None:
        self.now_s = 0.0
        self.said: list[str] = []
        self.given_up: list[str] = []
        self.waits_s: list[float] = []
        self.around = Surroundings(
            dict(os.environ), folder, self.said.append, self._gave_up, self, self._sleep
        )

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        return self.now_s

    def _gave_up(self, service: Service, how: str) -> None:
        self.given_up.append(f"{service.name}: {how}")

    async def _sleep(self, delay_s: float) -> None:
        self.waits_s.append(delay_s)
        await asyncio.sleep(0)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def service(folder: Path, script: str, name: str = "proxy", restarts: int = 2, grace_s: float = 5) -> Service:
    return Service(name, ("bash", "-c", script), str(folder / "log"), grace_s=grace_s, restarts=restarts)


async def test_a_service_that_ends_is_started_again_and_given_up_with_its_last_lines(
    tmp_path: Path, watched: Watched
) -> None:
    async with kept(service(tmp_path, "echo no GPU; exit 3"), watched.around):
        await eventually(lambda: watched.given_up, LIMIT_S)
    (told,) = watched.given_up
    assert "proxy ended with exit code 3" in told
    assert "no GPU" in told
    assert (tmp_path / "log").read_text() == "no GPU\n" * 3
    assert watched.waits_s == [0.5, 1.0]


async def test_a_long_life_ends_a_row_of_short_ones(tmp_path: Path, watched: Watched) -> None:
    class Growing(Watched):
        def monotonic(self) -> float:
            self.now_s += LONG_LIFE_S
            return self.now_s

    growing = Growing(tmp_path)
    async with kept(service(tmp_path, "exit 1", restarts=0), growing.around):
        await eventually(lambda: len(growing.waits_s) > 3, LIMIT_S)
    assert growing.given_up == []
    async with kept(service(tmp_path, "exit 1", restarts=0), watched.around):
        await eventually(lambda: watched.given_up, LIMIT_S)
    assert watched.waits_s == []


@pytest.mark.parametrize("code", [0, 8])
async def test_a_worker_that_left_as_it_was_asked_is_not_called_back(
    code: int, tmp_path: Path, watched: Watched
) -> None:
    async with kept(service(tmp_path, f"exit {code}", name="decode"), watched.around):
        await eventually(lambda: "decode: left, as it was asked to" in watched.said, LIMIT_S)
    assert (watched.given_up, watched.waits_s) == ([], [])


async def test_a_program_that_cannot_be_run_is_given_up_with_the_reason(
    tmp_path: Path, watched: Watched
) -> None:
    missing = Service("etcd", (str(tmp_path / "etcd"),), str(tmp_path / "log"), grace_s=1, restarts=0)
    async with kept(missing, watched.around):
        await eventually(lambda: watched.given_up, LIMIT_S)
    assert "No such file or directory" in watched.given_up[0]


@asynccontextmanager
async def pid_of(
    script: str, folder: Path, watched: Watched, grace_s: float = 5, first: str = ":"
) -> AsyncIterator[int]:
    """A kept process that has written its pid, after what it does first."""
    one = service(folder, f"{first}; echo $$ >{SCRATCH}/pid; {script}", grace_s=grace_s)
    async with kept(one, watched.around):
        file = folder / "pid"
        await eventually(lambda: file.exists() and file.read_text(), LIMIT_S)
        yield int(file.read_text())


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_with_the_block_the_process_ends(tmp_path: Path, watched: Watched) -> None:
    async with pid_of("exec sleep 60", tmp_path, watched) as pid:
        assert alive(pid)
    assert not alive(pid)
    assert watched.given_up == []


async def test_a_second_sigterm_hurries_it(tmp_path: Path, watched: Watched) -> None:
    polite = "on() { if [[ -n ${asked:-} ]]; then echo hurried; exit; fi; asked=1; }; trap on TERM"
    loop = "while true; do sleep 0.05; done"
    async with pid_of(loop, tmp_path, watched, grace_s=0.3, first=polite) as pid:
        pass
    assert not alive(pid)
    assert "hurried" in (tmp_path / "log").read_text()


async def test_a_process_that_is_killed_is_started_again_and_its_log_goes_on(
    tmp_path: Path, watched: Watched
) -> None:
    async with pid_of("echo up; exec sleep 60", tmp_path, watched) as pid:
        (tmp_path / "pid").unlink()
        os.kill(pid, 9)
        await eventually(lambda: (tmp_path / "log").read_text() == "up\nup\n", LIMIT_S)
    assert "was ended by SIGKILL" in "".join(watched.said)
