"""What rank 0 does beside running its part: waits for the service, serves or measures, and ends the job."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp
import msgspec

from deploy.local.children import LaunchError
from deploy.slurm.job.board import Board, Status
from deploy.slurm.job.ending import Ending
from deploy.slurm.job.keeper import Keeper, Surroundings
from deploy.slurm.job.plan import NodePlan
from proxy.clock import Clock, Sleep
from proxy.errors import RegistryError

REPORT_S = 90.0
"""For every node's first word, once the registry answers."""
_POLL_S = 1.0
_PROBE_S = 3.0
_PROGRESS_S = 30.0


class _Readiness(msgspec.Struct):
    """What the proxy's /readiness says."""

    status: str = "unknown"
    reason: str | None = None
    healthy_workers: int = 0


class Head:
    """Leads the job."""

    def __init__(
        self,
        plan: NodePlan,
        board: Board,
        around: Surroundings,
        ending: Ending,
        sleep: Sleep,
        clock: Clock,
    ) -> None:
        self._plan = plan
        self._board = board
        self._around = around
        self._ending = ending
        self._sleep = sleep
        self._clock = clock
        self._heard: dict[int, Status] = {}
        self.ready = False
        """Every worker has served once: from now on the loss of one does not end the job."""

    async def lead(self, tasks: asyncio.TaskGroup) -> None:
        """Until there is a reason to end."""
        timeout = aiohttp.ClientTimeout(total=_PROBE_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            tasks.create_task(self._listen())
            await self._until_ready(session)
            self.ready = True
            self._around.say(welcome(self._plan))
            tasks.create_task(self._watch(session))
            if self._plan.sweep is not None:
                await self._measure()
            await asyncio.Event().wait()

    async def _listen(self) -> None:
        """Reads what the nodes say; before the service is ready, one that fails or is silent ends the job."""
        began_s, readable = self._clock.monotonic(), True
        while True:
            try:
                self._hear(await self._board.nodes())
                readable = True
            except RegistryError as error:
                if readable:
                    self._around.say(f"the nodes cannot be heard: {error.message}")
                readable = False
            silent = [part for rank, part in enumerate(self._plan.parts) if rank not in self._heard]
            if silent and self._clock.monotonic() - began_s > REPORT_S:
                self._ending.because(
                    1,
                    f"no word within {REPORT_S:g} s from {', '.join(silent)}: see what its step said",
                )
            await self._sleep(_POLL_S)

    def _hear(self, nodes: Mapping[int, Status]) -> None:
        for rank, status in nodes.items():
            if status.state == "failed" and self._heard.get(rank) != status:
                if self.ready:
                    self._around.say(f"{status.reason}\nthe job goes on without it")
                else:
                    self._ending.because(1, status.reason)
            self._heard[rank] = status

    async def _until_ready(self, session: aiohttp.ClientSession) -> None:
        began_s = said_s = self._clock.monotonic()
        while True:
            found = await self._readiness(session)
            if found.status == "ready" and found.healthy_workers >= self._plan.workers:
                return
            waited_s = self._clock.monotonic() - began_s
            told = f"{found.healthy_workers} of {self._plan.workers} workers serve"
            told += f" ({found.reason})" if found.reason else ""
            if waited_s > self._plan.start_s:
                self._ending.because(
                    1,
                    f"the service was not ready within {self._plan.start_s} s (PD_JOB_START_S): {told}: "
                    "see the workers' logs",
                )
            if self._clock.monotonic() - said_s >= _PROGRESS_S:
                said_s = self._clock.monotonic()
                self._around.say(f"waiting for {waited_s:.0f} s of {self._plan.start_s}: {told}")
            await self._sleep(_POLL_S / 2)

    async def _watch(self, session: aiohttp.ClientSession) -> None:
        """Tells of a service that cannot serve, and ends the job when that lasts."""
        since_s: float | None = None
        workers = self._plan.workers
        while True:
            found = await self._readiness(session)
            now_s = self._clock.monotonic()
            if found.status == "ready":
                if since_s is not None or found.healthy_workers != workers:
                    self._around.say(f"{found.healthy_workers} of {self._plan.workers} workers serve")
                since_s, workers = None, found.healthy_workers
            elif since_s is None:
                since_s = now_s
                self._around.say(f"the service is not ready: {found.reason or found.status}")
            elif now_s - since_s > self._plan.unserved_s:
                self._ending.because(
                    1,
                    f"no service for {self._plan.unserved_s} s (PD_JOB_UNSERVED_S): "
                    f"{found.reason or found.status}",
                )
            await self._sleep(_POLL_S)

    async def _readiness(self, session: aiohttp.ClientSession) -> _Readiness:
        port = self._plan.url.rpartition(":")[2]
        try:
            async with session.get(f"http://127.0.0.1:{port}/readiness") as response:
                return msgspec.json.decode(await response.read(), type=_Readiness)
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError) as error:
            return _Readiness(reason=f"the proxy does not answer: {error or type(error).__name__}")

    async def _measure(self) -> None:
        """The sweep; its exit code is the job's."""
        if self._plan.sweep is None:
            return
        keeper = Keeper(self._plan.sweep, self._around)
        try:
            code = await keeper.run_once()
        except LaunchError as error:
            self._ending.because(1, str(error))
            return
        finally:
            await keeper.stop()
        well = "every request succeeded" if code == 0 else f"it ended with {code}: see the table above"
        self._ending.because(code if code >= 0 else 128 - code, f"the benchmark is over: {well}")


def welcome(plan: NodePlan) -> str:
    """The service's address, and a request to paste."""
    port = plan.url.rpartition(":")[2]
    curl = (
        f'curl -X POST http://127.0.0.1:{port}/generate -H "Content-Type: application/json" '
        """-d '{"text": "Let me tell you a story ", "sampling_params": {"temperature": 0.3}}'"""
    )
    return "\n".join(
        (f"ready: {plan.workers} workers serve at {plan.url}", f"on {plan.node}:", curl)
        + (() if plan.sweep else (f"it serves until: scancel {plan.job}",))
    )
