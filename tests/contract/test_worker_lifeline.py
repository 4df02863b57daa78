"""No process of an engine outlives its wrapper, however the one or the other ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.workers import alive, descendants
from workers.process import EngineProcess, start_engine

# An engine with a child in its group, one in a session of its own, and one whose parent has ended.
# Those that TERM and INT do not end are the rule here.
FAMILY = """
trap '' INT TERM
setsid sleep 600 &
(setsid sh -c 'sleep 601 & sleep 0.1' &)
sleep 602 &
while :; do sleep 603; done
"""
OBEDIENT = "trap '' INT; trap 'exit 7' TERM; while :; do sleep 0.05; done"
WRAPPER = """
import asyncio, os, sys
from workers.process import start_engine
async def main():
    process = await start_engine(sys.argv[1:], os.environ, 2)
    print(process.pid, flush=True)
    await process.wait()
asyncio.run(main())
"""


async def family(pid: int, count: int) -> list[int]:
    """All processes below `pid`, once there are so many."""
    await until(lambda: len(descendants(pid)) >= count)
    await asyncio.sleep(0.3)  # one has lost its parent by now
    return descendants(pid)


async def until(true: Callable[[], object], within_s: float = 20) -> None:
    deadline_s = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.01)


@asynccontextmanager
async def engine(script: str) -> AsyncIterator[EngineProcess]:
    """A shell script as an engine in this process."""
    process = await start_engine(["sh", "-c", script], os.environ, 2)
    try:
        yield process
    finally:
        await process.kill()


def lifeline_of(process: EngineProcess) -> int:
    return int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_a_killed_wrapper_takes_the_whole_family_with_it_within_two_seconds() -> None:
    wrapper = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRAPPER, "sh", "-c", FAMILY, stdout=asyncio.subprocess.PIPE
    )
    assert wrapper.stdout is not None
    await asyncio.wait_for(wrapper.stdout.readline(), 20)
    everyone = await family(wrapper.pid, 6)
    wrapper.kill()
    await wrapper.wait()
    began_s = time.monotonic()
    await until(lambda: not alive(everyone), within_s=10)
    assert time.monotonic() - began_s < 2


async def test_an_engine_dies_with_its_lifeline_even_when_nobody_is_left_to_see_it() -> None:
    wrapper = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRAPPER, "sh", "-c", "sleep 600", stdout=asyncio.subprocess.PIPE
    )
    assert wrapper.stdout is not None
    engine_pid = int(await asyncio.wait_for(wrapper.stdout.readline(), 20))
    (lifeline,) = set(descendants(wrapper.pid)) - set(descendants(engine_pid)) - {engine_pid}
    os.kill(wrapper.pid, signal.SIGSTOP)  # it sees nothing, and kills nobody
    os.kill(lifeline, signal.SIGKILL)
    await until(lambda: not alive([engine_pid]))
    wrapper.kill()
    await wrapper.wait()


async def test_a_killed_lifeline_takes_the_engine_and_its_session_with_it() -> None:
    async with engine("trap '' INT TERM; sleep 600 & sleep 601 & while :; do sleep 602; done") as process:
        lifeline = lifeline_of(process)
        everyone = await family(lifeline, 4)
        os.kill(lifeline, signal.SIGKILL)
        assert await asyncio.wait_for(process.wait(), 20) == -signal.SIGKILL
        await until(lambda: not alive(everyone))


async def test_a_stubborn_family_is_killed_after_both_limits() -> None:
    async with engine(FAMILY) as process:
        everyone = await family(lifeline_of(process), 5)
        began_s = time.monotonic()
        assert await process.stop(0.2, 0.3, asyncio.Event()) == -signal.SIGKILL
        assert time.monotonic() - began_s >= 0.5
        assert not alive(everyone)


async def test_an_obedient_engine_is_not_killed_and_its_code_is_told() -> None:
    async with engine(OBEDIENT) as process:
        await family(process.pid, 1)  # it sleeps: the trap is set
        assert await process.stop(0.3, 30, asyncio.Event()) == 7


async def test_hurry_kills_at_once() -> None:
    async with engine(FAMILY) as process:
        everyone = await family(lifeline_of(process), 5)
        hurry = asyncio.Event()
        hurry.set()
        assert await asyncio.wait_for(process.stop(600, 600, hurry), 20) == -signal.SIGKILL
        assert not alive(everyone)


async def test_what_a_dead_engine_leaves_behind_is_killed() -> None:
    async with engine("setsid sleep 600 & (sleep 601 &) ; sleep 0.5; exit 9") as process:
        everyone = await family(lifeline_of(process), 3)
        await asyncio.wait_for(process.main_ended(), 20)
        assert await asyncio.wait_for(process.wait(), 20) == 9
        assert not alive(everyone)


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 3", 3), ("kill -SEGV $$", -signal.SIGSEGV), ("kill -KILL $$", -signal.SIGKILL)],
)
async def test_an_end_is_told_as_it_was(script: str, code: int) -> None:
    async with engine(script) as process:
        assert await asyncio.wait_for(process.wait(), 20) == code


async def test_an_interpreter_that_is_not_there_says_so_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("ab") as output:
        process = await start_engine(["/none/python", "-m", "x"], os.environ, output.fileno())
    assert await asyncio.wait_for(process.wait(), 20) == 127
    assert "cannot run /none/python: No such file" in log.read_text()


async def test_a_signal_to_the_wrappers_group_does_not_reach_the_engine() -> None:
    """A terminal's Ctrl-C goes to the wrapper alone, which drains first."""
    async with engine("sleep 600") as process:
        assert os.getsid(process.pid) == process.pid
        assert os.getpgid(lifeline_of(process)) != os.getpgid(0)
