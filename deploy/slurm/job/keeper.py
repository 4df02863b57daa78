"""Keeps one process of a node running: started again when it ends, given up when that does not help."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.local.children import Child, LaunchError, spawn
from deploy.slurm.job.services import SCRATCH, Service
from proxy.clock import Clock, Sleep

LONG_LIFE_S = 60.0
"""A life that lasted so long ends a row of short ones."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 15.0
_HURRY_S = 4.0
_LEFT_AS_ASKED = (0, 8)
"""Exit codes of a pd-worker that an operator's wish made leave: it is not called back."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What keepers take from outside."""

    environ: Mapping[str, str]
    """The processes' whole environment."""
    scratch: Path
    """The node's own folder, for what need not outlive the job."""
    say: Callable[[str], None]
    gave_up: Callable[[Service, str], None]
    """Told why, once."""
    clock: Clock
    sleep: Sleep


class Keeper:
    """One service's lives. Owns its process."""

    def __init__(self, service: Service, surroundings: Surroundings) -> None:
        self._service = service
        self._around = surroundings
        self._argv = [word.replace(SCRATCH, str(surroundings.scratch)) for word in service.argv]
        self._environ = {**surroundings.environ, **service.env}
        self._child: Child | None = None
        self._stopping = False
        self._turn = asyncio.Lock()
        """Held while a process is being made, so that none can be made behind the back of `stop`."""

    async def run(self) -> None:
        """Until it is given up, or has left as it was asked to."""
        service, around, short_lives = self._service, self._around, 0
        while True:
            born_s = around.clock.monotonic()
            how = await self._one_life()
            if self._stopping:
                return
            code = self._child.process.returncode if self._child else None
            if service.name in ("prefill", "decode") and code in _LEFT_AS_ASKED:
                around.say(f"{service.name}: left, as it was asked to")
                return
            short_lives = 0 if around.clock.monotonic() - born_s >= LONG_LIFE_S else short_lives + 1
            if short_lives > service.restarts:
                around.gave_up(service, how)
                return
            wait_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** max(0, short_lives - 1))
            around.say(f"{how}\n{service.name}: starting it again in {wait_s:g} s")
            await around.sleep(wait_s)

    async def run_once(self) -> int:
        """One life of a service that is meant to end.

        Returns:
            Its exit code; minus the signal's number, if one ended it.

        Raises:
            LaunchError: it could not be started.
        """
        async with self._turn:
            self._child = await self._spawn()
        return await self._child.process.wait()

    async def stop(self) -> None:
        """Ends the process and all that it has started."""
        self._stopping = True
        async with self._turn:
            if self._child is None or self._child.process.returncode is not None:
                return
        self._child.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._service.grace_s):
                await self._child.process.wait()
        except TimeoutError:
            await self._child.stop(_HURRY_S)  # its second SIGTERM, which pd-worker obeys at once

    async def _one_life(self) -> str:
        """How it ended."""
        try:
            async with self._turn:
                if self._stopping:
                    return ""
                self._child = await self._spawn()
            await self._child.must_live()
        except LaunchError as error:
            return str(error)
        return ""

    async def _spawn(self) -> Child:
        service = self._service
        return await spawn(service.name, self._argv, Path(service.log), env=self._environ, append=True)


@asynccontextmanager
async def kept(service: Service | None, surroundings: Surroundings) -> AsyncIterator[None]:
    """Keeps a service running for as long as the block lasts; None: nothing to keep."""
    if service is None:
        yield
        return
    keeper = Keeper(service, surroundings)
    surroundings.say(f"starting {service.name}; log: {service.log}")
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(keeper.run())
        try:
            yield
        finally:
            await keeper.stop()
            running.cancel()
