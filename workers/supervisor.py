"""Life after life of one engine: launched, found ready, registered, watched, drained, ended, restarted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

import structlog

from proxy.clock import Clock, Sleep
from proxy.roster import Role, Worker
from workers.announcer import Announcer
from workers.drain import Drained, Leaving, until_idle
from workers.endings import CUT, TIMED_OUT, End, autopsy, ending, exit_code
from workers.engine_api import EngineApi, Load, ServerFacts, Silent
from workers.plan import LaunchPlan
from workers.process import EngineProcess, start_engine
from workers.readiness import NotReady, Readiness
from workers.restarts import Restarts
from workers.run_settings import RunSettings

log = structlog.get_logger("pd-worker")


class Phase(StrEnum):
    """What the worker is about now."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    WAITING = "waiting"
    """Crashed, and about to be started again."""
    STOPPED = "stopped"


class Supervisor:
    """Owns the engine's process. `run` it once; the attributes tell how it stands."""

    def __init__(
        self,
        plan: LaunchPlan,
        rules: RunSettings,
        api: EngineApi,
        announcer: Announcer,
        leaving: Leaving,
        restarts: Restarts,
        *,
        environ: Mapping[str, str],
        describe: Callable[[ServerFacts], Worker],
        on_ready: Callable[[Worker], None],
        clock: Clock,
        sleep: Sleep,
    ) -> None:
        """Make one.

        Args:
            plan: what to launch.
            rules: limits.
            api: the engine's HTTP.
            announcer: the registry.
            leaving: who wants it to end.
            restarts: counts crashes.
            environ: of the engine, before what the plan adds.
            describe: the record of a new life, from what the engine says of itself.
            on_ready: told when a life is ready and its registration has begun.
            clock: time.
            sleep: waiting.
        """
        self._plan = plan
        self._rules = rules
        self._api = api
        self._announcer = announcer
        self._leaving = leaving
        self.restarts = restarts
        self._env = {**environ, **plan.env}
        self._describe = describe
        self._on_ready = on_ready
        self._clock = clock
        self._sleep = sleep
        self._ever_ready = False
        self._readiness: Readiness | None = None
        self._ready_at_s: float | None = None
        self.phase = Phase.STARTING
        self.pid: int | None = None
        """Of the engine; None between two lives."""
        self.load: Load | None = None
        """As last read; None: unknown."""
        self.last_end = ""
        """Why the last life ended, for people."""

    @property
    def stage(self) -> str:
        """What a starting engine is waited for."""
        return self._readiness.stage if self._readiness is not None else "the launch"

    async def run(self) -> int:
        """Keeps an engine running until somebody wants it to end, or it crashes too often.

        Returns:
            The exit code of pd-worker.
        """
        while True:
            end = await self._live()
            self.pid, self.load = None, None
            if end.asked:
                self.phase = Phase.STOPPED
                return end.exit_code
            self.last_end = end.why
            wait_s = self.restarts.crashed(self._served_s())
            log.error("engine: " + end.why, crashes=self.restarts.count, log=str(self._plan.log_file))
            if wait_s is None or (end.hopeless and not self._ever_ready):
                log.error("giving up: " + ("another start would end alike" if wait_s else "too many crashes"))
                self.phase = Phase.STOPPED
                return end.exit_code
            self.phase = Phase.WAITING
            log.info("engine: starting again", wait_s=round(wait_s, 1))
            if await self._told_to_leave_within(wait_s):
                self.phase = Phase.STOPPED
                return 0

    def _served_s(self) -> float:
        """How long the last life was ready."""
        return 0.0 if self._ready_at_s is None else self._clock.monotonic() - self._ready_at_s

    async def _told_to_leave_within(self, wait_s: float) -> bool:
        try:
            async with asyncio.timeout(wait_s):
                await self._leaving.begun.wait()
        except TimeoutError:
            return False
        return True

    async def _live(self) -> End:
        """One life, from launch to the end of its last process."""
        self.phase, self._readiness, self._ready_at_s = Phase.STARTING, None, None
        try:
            with _open_log(self._plan.log_file) as output:
                begins_at = os.fstat(output.fileno()).st_size
                process = await start_engine(self._plan.argv, self._env, output.fileno())
        except (OSError, TimeoutError) as error:
            return End(1, why=f"could not be started: {str(error) or type(error).__name__}")
        self.pid = process.pid
        log.info("engine: launched", pid=process.pid, log=str(self._plan.log_file))
        try:
            return await self._until_end(process, begins_at)
        finally:
            process.let_go()

    async def _until_end(self, process: EngineProcess, begins_at: int) -> End:
        async with asyncio.TaskGroup() as tasks:
            ended = tasks.create_task(process.main_ended(), name="engine-ended")
            serving = tasks.create_task(self._serve(), name="engine-serving")
            told = tasks.create_task(self._leaving.begun.wait(), name="told-to-leave")
            await asyncio.wait((ended, serving, told), return_when=asyncio.FIRST_COMPLETED)
            told.cancel()
            if ended.done():
                serving.cancel()
                return await self._crashed(process, begins_at)
            if serving.done():
                verdict = serving.result()
                await self._announcer.withdraw()
                await self._stop(process)
                return verdict
            serving.cancel()
            try:
                return await self._see_off(process, ended)
            finally:
                ended.cancel()

    async def _serve(self) -> End:
        """Brings the engine to serving and watches it; ends only where it must be ended."""
        if not self._plan.registers:
            self.phase, self._ready_at_s = Phase.READY, self._clock.monotonic()
            await asyncio.Event().wait()
        self._readiness = readiness = Readiness(self._api, Role(self._plan.role), self._sleep)
        limit_s = self._rules.start_limit_s
        try:
            async with asyncio.timeout(limit_s):
                facts = await readiness.reached(
                    canary=self._rules.canary, canary_limit_s=self._rules.canary_limit_s
                )
        except TimeoutError:
            return End(TIMED_OUT, why=f"not ready within {limit_s:g} s: waiting for {readiness.stage}")
        except NotReady as error:
            return End(1, why=f"not fit to serve: {error}")
        worker = self._describe(facts)
        self._ever_ready, self.phase = True, Phase.READY
        self._ready_at_s = self._clock.monotonic()
        self._announcer.announce(worker)
        self._on_ready(worker)
        return await self._watch()

    async def _watch(self) -> End:
        """Reads the load again and again; ends when the engine has been silent for too long."""
        heard_at_s = self._clock.monotonic()
        limit_s = self._rules.hang_limit_s
        while True:
            try:
                await self._read_load()
                heard_at_s = self._clock.monotonic()
            except Silent as silent:
                if limit_s and self._clock.monotonic() - heard_at_s >= limit_s:
                    return End(TIMED_OUT, why=f"hangs: silent for {limit_s:g} s ({silent})")
            await self._sleep(self._rules.load_interval_s)

    async def _read_load(self) -> Load | None:
        self.load = None
        self.load = await self._api.load()
        return self.load

    async def _crashed(self, process: EngineProcess, begins_at: int) -> End:
        """Withdraws at once; the rest of the engine is killed meanwhile."""
        await self._announcer.withdraw()
        code = await process.wait()
        found = await asyncio.to_thread(autopsy, self._plan.log_file, begins_at, code)
        stage = "" if self.phase is not Phase.STARTING else f" while waiting for {self.stage}"
        why = f"ended by itself ({ending(code)}){stage}" + (f": {found}" if found else "")
        return End(exit_code(code), why=why, hopeless=found is not None and found.finding.hopeless)

    async def _see_off(self, process: EngineProcess, ended: asyncio.Task[None]) -> End:
        """Drains, withdraws, stops."""
        code = 0
        if self.phase is Phase.READY:
            self.phase = Phase.DRAINING
            await self._announcer.draining()
            code = await self._drain(process, ended)
            await self._announcer.withdraw()
        self.phase = Phase.DRAINING
        await self._stop(process)
        log.info("engine: stopped")
        return End(code, asked=True)

    async def _drain(self, process: EngineProcess, ended: asyncio.Task[None]) -> int:
        """Waits until nothing runs; the exit code so far."""
        waiting: Awaitable[Drained] = (
            self._until_idle() if self._plan.registers else self._until_rank_0_ends()
        )
        async with asyncio.TaskGroup() as tasks:
            idle = tasks.create_task(_result(waiting), name="until-idle")
            await asyncio.wait((idle, ended), return_when=asyncio.FIRST_COMPLETED)
            if not idle.done():
                idle.cancel()
                code = await process.wait()
                log.warning(f"engine: ended during the drain ({ending(code)})")
                return exit_code(code) if code and self._plan.registers else 0
        outcome = idle.result()
        load = self.load
        if outcome is Drained.CUT:
            log.warning("drain: the limit is reached, what runs is cut", running=load and load.running)
            return CUT
        log.info(f"drain: {outcome}")
        return 0

    async def _until_idle(self) -> Drained:
        return await until_idle(
            self._read_load,
            settle_s=self._rules.drain_settle_s,
            limit_s=self._rules.drain_limit_s,
            hurried=self._leaving.hurried,
            clock=self._clock,
            sleep=self._sleep,
        )

    async def _until_rank_0_ends(self) -> Drained:
        """Another rank cannot see what runs: its engine ends when rank 0's does."""
        try:
            async with asyncio.timeout(self._rules.drain_limit_s):
                await self._leaving.hurried.wait()
        except TimeoutError:
            return Drained.IDLE
        return Drained.HURRIED

    async def _stop(self, process: EngineProcess) -> int:
        rules = self._rules
        return await process.stop(rules.interrupt_limit_s, rules.terminate_limit_s, self._leaving.hurried)


async def _result(waiting: Awaitable[Drained]) -> Drained:
    return await waiting


def _open_log(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab", buffering=0)
