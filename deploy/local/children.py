"""Child processes that cannot outlive us: one that ends early is a failure, the others end by escalation."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LAST_LINES = 15
_LAST_BYTES = 16_384

_libc = ctypes.CDLL(None, use_errno=True)


class LaunchError(Exception):
    """What we wanted to run does not; the message is for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Child:
    """A running service of ours, the leader of its own process group."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    async def must_live(self) -> None:
        """Waits for the end of the process, which nobody asked for.

        Raises:
            LaunchError: always, with the last lines of its log.
        """
        code = await self.process.wait()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise LaunchError(f"{self.name} {how}. Its last lines:\n{self._last_lines()}")

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process and to all that it has started, if it is still there."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    async def stop(self, grace_s: float) -> None:
        """Ends the process: SIGTERM, and SIGKILL after `grace_s`."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                await self.process.wait()
        except TimeoutError:
            print(f"{self.name} did not end within {grace_s:g} s: killed", flush=True)
            self.signal(signal.SIGKILL)
            await self.process.wait()

    def _last_lines(self) -> str:
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - _LAST_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-_LAST_LINES:]
        return "\n".join(f"    {line}" for line in lines) or "    (it wrote nothing)"


async def spawn(
    name: str, argv: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None, append: bool = False
) -> Child:
    """Starts a service; both its outputs go to the file `log`, anew or (`append`) after what is there.

    Raises:
        LaunchError: the program cannot be started.
    """
    with log.open("ab" if append else "wb") as output:
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                env=env,
                # Its own session: the terminal's Ctrl-C reaches us alone, who know in what order to end.
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),
            )
        except OSError as error:
            raise LaunchError(f"{name} cannot be started: {argv[0]}: {error.strerror}") from error
    return Child(name, process, log)


async def stop_all(groups: Iterable[Sequence[Child]], grace_s: float) -> None:
    """Ends the groups one after the other, the children of a group at once."""
    for group in groups:
        async with asyncio.TaskGroup() as tasks:
            for child in group:
                tasks.create_task(child.stop(grace_s))


def _die_with(parent: int) -> Callable[[], None]:
    """What the child runs before its program: the kernel kills it when we die, even by SIGKILL."""

    def ask_the_kernel() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # we died before the kernel was asked
            os._exit(1)

    return ask_the_kernel
