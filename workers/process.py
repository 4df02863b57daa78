"""The engine as a process: started on a lifeline, ended by signals to its whole group, never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

log = structlog.get_logger("pd-worker")

_SHIM = Path(__file__).with_name("lifeline.py")
_START_S = 30.0
"""why: from the fork to the pid; a small script, on a machine that may be loading weights elsewhere."""
_KILLED_S = 40.0
"""why: the lifeline gives up on processes that SIGKILL does not end after 30 s."""
_INTERRUPT, _TERMINATE, _KILL = b"i", b"t", b"k"


class EngineProcess:
    """One life of the engine. Made by `start_engine`; end it with `stop`, and `wait` for it."""

    def __init__(self, shim: asyncio.subprocess.Process, pid: int, told: asyncio.StreamReader) -> None:
        self._shim = shim
        self._told = told
        self.pid = pid
        """Of the engine itself: also of its session and its process group."""

    async def main_ended(self) -> None:
        """Waits for the end of the engine's first process; others may still be about to be killed."""
        await self._told.read()

    async def wait(self) -> int:
        """Waits for the end of every process of the engine.

        Returns:
            The exit code; minus the signal's number if one ended it.
        """
        code = await self._shim.wait()
        if code == -signal.SIGKILL:
            # Perhaps it was the lifeline that was killed, and the kernel has killed the engine only.
            await asyncio.to_thread(_kill_session, self.pid)
        return code

    async def stop(self, interrupt_s: float, terminate_s: float, hurry: asyncio.Event) -> int:
        """SIGINT, then SIGTERM, then SIGKILL, to the whole group; what is left after that is killed too.

        Args:
            interrupt_s: from SIGINT to SIGTERM.
            terminate_s: from SIGTERM to SIGKILL.
            hurry: when set, SIGKILL at once.

        Returns:
            As `wait`.
        """
        for order, limit_s in ((_INTERRUPT, interrupt_s), (_TERMINATE, terminate_s)):
            self._order(order)
            if await self._ends_within(limit_s, hurry):
                return await self.wait()
        log.warning("engine: does not end by itself, killing it", pid=self.pid)
        return await self.kill()

    async def kill(self) -> int:
        """SIGKILL to every process of the engine, at once.

        Returns:
            As `wait`.
        """
        self._order(_KILL)
        try:
            async with asyncio.timeout(_KILLED_S):
                return await self.wait()
        except TimeoutError:
            log.error("engine: processes are left that SIGKILL does not end", pid=self.pid)
            return -signal.SIGKILL

    def let_go(self) -> None:
        """Leaves the engine to its lifeline, which kills it: for when nobody can wait any more."""
        if self._shim.stdin is not None:
            self._shim.stdin.close()

    def _order(self, order: bytes) -> None:
        if self._shim.returncode is None and self._shim.stdin is not None:
            self._shim.stdin.write(order)

    async def _ends_within(self, limit_s: float, hurry: asyncio.Event) -> bool:
        async with asyncio.TaskGroup() as tasks:
            ended, hurried = tasks.create_task(self._shim.wait()), tasks.create_task(hurry.wait())
            await asyncio.wait((ended, hurried), timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            done = ended.done()
            ended.cancel()
            hurried.cancel()
        return done


async def start_engine(argv: Sequence[str], env: Mapping[str, str], output: int) -> EngineProcess:
    """Starts the engine; nothing of it outlives this process.

    Args:
        argv: its command line. One that cannot be run ends at once with 127, and says why in its output.
        env: its whole environment.
        output: descriptor that its stdout and stderr go to.

    Raises:
        OSError: no process could be made.
        TimeoutError: the machine is too busy to make one.
    """
    status_r, status_w = os.pipe()
    status = os.fdopen(status_r, "rb", buffering=0)
    try:
        shim = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", str(_SHIM), str(status_w), *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=dict(env),
            pass_fds=(status_w,),
            start_new_session=True,
        )  # fmt: skip
    except BaseException:
        status.close()
        raise
    finally:
        os.close(status_w)
    told = asyncio.StreamReader()
    try:
        async with asyncio.timeout(_START_S):
            await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(told), status
            )
            pid = int(await told.readline() or b"0")
    except BaseException:
        shim.kill()
        raise
    return EngineProcess(shim, pid, told)


def _kill_session(session: int) -> None:
    """Kills every process of a session whose leader has ended."""
    if not session:
        return
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
            if int(fields[3]) == session:
                os.kill(int(name), signal.SIGKILL)
        except (OSError, IndexError):
            continue  # it has gone meanwhile
