"""The agent: one on each node. Runs the node's part until the job ends, prints why, leaves nothing behind."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import traceback
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path

from deploy.slurm.job import services
from deploy.slurm.job.board import Board, End, Status, lock, rules
from deploy.slurm.job.ending import Ending
from deploy.slurm.job.head import Head
from deploy.slurm.job.keeper import Surroundings, kept
from deploy.slurm.job.plan import NodePlan
from deploy.slurm.job.services import Service
from proxy.clock import Clock, Sleep
from proxy.discovery.etcd import Etcd
from proxy.errors import RegistryError
from workers.console import Console

REGISTRY_S = 90.0
"""For the registry to answer; the job's nodes do not start in the same second."""
_POLL_S = 1.0
_NODES_GONE_S = 8.0
"""why: with the proxy's 6 s and etcd's 4 s it is below Slurm's KillWait of 30 s."""
_STDOUT, _STDIN = 1, 0


class Agent:
    """One node's part. `run` it once."""

    def __init__(
        self, plan: NodePlan, secret: str, environ: Mapping[str, str], *, clock: Clock, sleep: Sleep
    ) -> None:
        self._plan = plan
        self._secret = secret
        self._environ = {**services.without_ours(environ), **services.passwords(secret)}
        self._clock = clock
        self._sleep = sleep
        self._ending = Ending()
        self._log = Path(plan.log)
        self._head: Head | None = None

    async def run(self, *, line: bool) -> int:
        """Runs it.

        Args:
            line: stdin is a line that is held for as long as the step lives.

        Returns:
            The exit code: on rank 0 the job's.
        """
        self._ending.on_signals()
        if line:
            self._ending.on_closed(_STDIN)
        console = Console(_STDOUT)
        size = self._log.stat().st_size if self._log.exists() else 0
        console.follow(self._log, size)
        scratch = Path(tempfile.mkdtemp(prefix=f"pd-job-{self._plan.job}-node{self._plan.rank}-"))
        try:
            await self._until_the_end(scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            self._say(f"ended with {self._ending.code}: {self._ending.reason}")
            console.close()
        return self._ending.code

    async def _until_the_end(self, scratch: Path) -> None:
        async with asyncio.TaskGroup() as tasks:
            part = tasks.create_task(self._part(scratch))
            wait = tasks.create_task(self._ending.wait())
            await asyncio.wait((part, wait), return_when=asyncio.FIRST_COMPLETED)
            self._say(f"ending: {self._ending.reason}")
            part.cancel()
            wait.cancel()

    async def _part(self, scratch: Path) -> None:
        """Everything here ends in the reverse order of its start, also when it is cancelled."""
        plan = self._plan
        try:
            async with (
                kept(plan.etcd, self._around(scratch)),
                Etcd(rules(plan.registry, self._secret)) as etcd,
                self._on(Board(etcd, plan.job, plan.rank)) as board,
                kept(plan.worker, self._around(scratch)),
                kept(plan.proxy, self._around(scratch)),
            ):
                await self._duty(board, scratch)
        except Exception as error:  # noqa: BLE001  # the outermost frame: a bug is a reason as well
            self._bug(error)

    def _bug(self, error: Exception) -> None:
        if not self._ending.decided:
            self._say("".join(traceback.format_exception(error)))
            self._ending.because(1, f"{self._plan.name}: a bug in the job's agent: {error!r}")

    async def _duty(self, board: Board, scratch: Path) -> None:
        async with asyncio.TaskGroup() as tasks:
            if self._plan.proxy is None:
                await self._follow(board)
            else:
                self._head = Head(
                    self._plan, board, self._around(scratch), self._ending, self._sleep, self._clock
                )
                await self._head.lead(tasks)

    def _around(self, scratch: Path) -> Surroundings:
        return Surroundings(self._environ, scratch, self._say, self._gave_up, self._clock, self._sleep)

    def _gave_up(self, service: Service, how: str) -> None:
        """Rank 0's worker is one of many once the service stands; all else ends this node's part."""
        reason = f"{self._plan.name}: {how}"
        if self._head is not None and service == self._plan.worker and self._head.ready:
            self._say(f"{reason}\nthe job goes on without it")
        else:
            self._ending.because(1, reason)

    @asynccontextmanager
    async def _on(self, board: Board) -> AsyncIterator[Board]:
        """This node's word on the board; at the end rank 0 ends the others, and waits for them."""
        await self._join(board)
        try:
            yield board
        except Exception as error:
            self._bug(error)
            raise
        finally:
            try:
                await self._off(board)
            except RegistryError as error:
                self._say(f"the registry is not told of the end: {error.message}")

    async def _off(self, board: Board) -> None:
        ending, leads = self._ending, self._plan.proxy is not None
        if leads:
            await board.end(End(ending.code, ending.reason))
            await board.leave()
            with suppress(TimeoutError):
                async with asyncio.timeout(_NODES_GONE_S):
                    while any(status.state == "up" for status in (await board.nodes()).values()):
                        await self._sleep(_POLL_S / 4)
        elif ending.code and not await board.ended():
            await board.tell(Status("failed", ending.reason))
        else:
            await board.leave()

    async def _join(self, board: Board) -> None:
        """Waits for the registry, and says that this node is up; rank 0 has the password asked for first."""
        plan, last = self._plan, ""
        try:
            async with asyncio.timeout(REGISTRY_S):
                while True:
                    try:
                        if plan.proxy is not None:
                            await lock(plan.registry[0], self._secret)
                        await board.tell(Status("up"))
                        return
                    except RegistryError as error:
                        last = error.message
                    await self._sleep(_POLL_S / 2)
        except TimeoutError:
            self._ending.because(
                1,
                f"{plan.name}: the job's registry did not answer within {REGISTRY_S:g} s: {last}: "
                f"see etcd_NODE0.log; is there a firewall between the nodes?",
            )
            await asyncio.Event().wait()  # for the cancellation that a decided ending brings at once

    async def _follow(self, board: Board) -> None:
        """Until rank 0 ends the job, or has not been heard of for too long."""
        heard_s = self._clock.monotonic()
        while True:
            try:
                end = await board.ended()
                heard_s = self._clock.monotonic()
                if end is not None:
                    self._ending.because(end.code, end.reason)
            except RegistryError as error:
                silent_s = self._clock.monotonic() - heard_s
                if silent_s > self._plan.orphaned_s:
                    self._ending.because(
                        1,
                        f"{self._plan.name}: the job's registry has been silent for {silent_s:.0f} s: "
                        f"{error.message}",
                    )
            await self._sleep(_POLL_S)

    def _say(self, text: str) -> None:
        """Into the node's main log, which the console follows."""
        now = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
        with suppress(OSError), self._log.open("a", encoding="utf-8") as file:  # a full disk ends no service
            for line in text.splitlines():
                file.write(f"{now} NODE{self._plan.rank} {self._plan.node}: {line}\n")
