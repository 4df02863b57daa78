"""Composition: one engine on its ports, several of them in one process if wanted."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from proxy.clock import SystemClock
from proxy.roster import Role, State, Worker
from workers.engine import middleware
from workers.engine.admin import Admin
from workers.engine.answering import Desk
from workers.engine.background import Background
from workers.engine.config import EngineConfig
from workers.engine.faults import Fault, Faults
from workers.engine.generate import Generate
from workers.engine.info import Info
from workers.engine.kv import Rooms
from workers.engine.kv_client import KvClient
from workers.engine.listener import Listener
from workers.engine.metrics import Totals
from workers.engine.openai_routes import OpenAiRoute
from workers.engine.oracle import Model
from workers.engine.prefix_cache import PrefixCache
from workers.engine.recorder import Recorder
from workers.engine.runner import Runner
from workers.engine.scheduler import Scheduler


class Engine:
    """A running engine. Made by `serve_engine`."""

    def __init__(
        self,
        config: EngineConfig,
        tasks: Background,
        die: Callable[[], None] | None,
        worker_id: str | None,
    ) -> None:
        self.config = config
        self.instance = uuid.uuid4().hex
        self._worker_id = worker_id
        self._tasks = tasks
        self.loading = config.startup_delay_s > 0
        """While the weights load: health answers 503."""
        self._draining = False
        self._started_at = SystemClock.time()
        clock = SystemClock()
        self.scheduler = Scheduler(
            config.max_running_requests, config.max_queued_requests, unique_rids=config.modern
        )
        self.faults = Faults(config.seed)
        self.rooms = Rooms(config)
        self._kv_client = KvClient(config, self.instance, tasks)
        recorder, totals = Recorder(), Totals()
        cache = PrefixCache(config.prefix_cache_tokens, config.page_size)
        model = Model(config.split_characters, config.mean_output_tokens)
        runner = Runner(config, clock, self.scheduler, self.rooms, self._kv_client, cache, model, totals)
        desk = Desk(config, clock, runner, self.scheduler, recorder, die or self._die_in_process)
        self._info = Info(
            config, clock, self.scheduler, self.rooms, self._kv_client, cache, totals, self._is_serving
        )
        self._admin = Admin(
            self.scheduler,
            self.rooms,
            self._kv_client,
            cache,
            self.faults,
            recorder,
            self.refuse_for,
            lambda: self._draining,
        )
        app = middleware.application(config, self.faults, recorder, clock, desk.die)
        app.add_routes(
            [
                web.post("/generate", Generate(desk).__call__),
                web.put("/generate", Generate(desk).__call__),
                web.post("/v1/completions", OpenAiRoute(desk, chat=False).__call__),
                web.post("/v1/chat/completions", OpenAiRoute(desk, chat=True).__call__),
                *self._info.routes(),
                *self._admin.routes(),
            ]
        )
        self._door = Listener(app, config.keep_alive_timeout_s)
        self._bootstrap = Listener(self.rooms.application(), keep_alive_s=75)

    async def start(self) -> None:
        """Binds the ports and, after `startup_delay_s`, is ready.

        Raises:
            OSError: a port is taken.
        """
        config = self.config
        bootstrap_port = 0
        if config.role is Role.PREFILL:
            bootstrap_port = await self._bootstrap.open(config.host, config.bootstrap_port)
        port = await self._door.open(config.host, config.port)
        self._info.address = (config.host, port, bootstrap_port)
        if self.loading:
            self._tasks.start(self._load())
        else:
            self.rooms.registered = True

    async def _load(self) -> None:
        await asyncio.sleep(self.config.startup_delay_s)
        self.rooms.registered = True
        self.loading = False

    @property
    def port(self) -> int:
        """Of the HTTP server."""
        return self._info.address[1]

    @property
    def bootstrap_port(self) -> int:
        """Of the bootstrap server; 0 where there is none."""
        return self._info.address[2]

    @property
    def url(self) -> str:
        """http://host:port."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"http://{host}:{self.port}"

    @property
    def worker(self) -> Worker:
        """As it stands in the registry."""
        config = self.config
        prefill = config.role is Role.PREFILL
        return Worker(
            worker_id=self._worker_id or f"{config.role}-{config.host}-{self.port}",
            url=self.url,
            role=config.role,
            model=config.model,
            bootstrap_host=config.host if prefill else None,
            bootstrap_port=self.bootstrap_port if prefill else None,
            engine="sglang",
            engine_version=config.engine_version,
            tp_size=config.tp_size,
            dp_size=config.dp_size,
            transfer_backend="mooncake" if config.role is not Role.REGULAR else None,
            max_running_requests=config.max_running_requests,
            max_total_tokens=config.max_total_tokens,
            instance=self.instance,
            state=self._state(),
            started_at=self._started_at,
        )

    def _state(self) -> State:
        if self._draining:
            return State.DRAINING
        return State.STARTING if self.loading else State.READY

    def _is_serving(self) -> bool:
        return not self.loading and not self._draining

    def state(self) -> dict[str, Any]:
        """What /simulate/state answers."""
        return self._admin.state()

    def fault(self, kind: str, seed: int | None = None, **fields: Any) -> None:
        """Arms a fault; see `faults.Fault` for the fields."""
        self.faults.add(Fault.model_validate({"kind": kind, **fields}), seed)

    def start_draining(self) -> None:
        """As SGLang on SIGTERM: health fails from now on; what comes is still served."""
        self._draining = True

    async def drain(self) -> None:
        """Starts draining and returns when all is quiet, or has been aborted at the limit."""
        self.start_draining()
        try:
            async with asyncio.timeout(self.config.drain_timeout_s):
                await self.scheduler.quiet()
        except TimeoutError:
            self.scheduler.abort("", everything=True)

    async def refuse(self) -> None:
        """Closes the listener: new connections are refused, open ones live on."""
        await self._door.shut()

    async def accept(self) -> None:
        """Opens the listener again, on the same port."""
        await self._door.open(self.config.host, self.port)

    async def refuse_for(self, for_s: float) -> None:
        """`refuse`, then `accept` after so many seconds."""
        await self.refuse()
        self._tasks.start(self._accept_after(for_s))

    async def _accept_after(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        await self.accept()

    async def kill(self) -> None:
        """As SIGKILL looks from outside: every connection is cut, both ports are closed."""
        await self._door.kill()
        await self._bootstrap.kill()

    def _die_in_process(self) -> None:
        self._tasks.start(self.kill())

    async def close(self) -> None:
        """Closes everything; what still runs is cancelled."""
        await self._door.close()
        await self._bootstrap.close()
        await self._kv_client.close()
        self._tasks.cancel()


@asynccontextmanager
async def serve_engine(
    config: EngineConfig, *, die: Callable[[], None] | None = None, worker_id: str | None = None
) -> AsyncIterator[Engine]:
    """A running engine for as long as the block lasts.

    Args:
        config: see there.
        die: what the fault `die` does; by default the engine only looks dead and the process lives on.
        worker_id: `role-host-port` by default.

    Raises:
        OSError: a port is taken.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            engine = Engine(config, Background(tasks), die, worker_id)
            try:
                await engine.start()
                yield engine
            finally:
                await engine.close()
    except BaseExceptionGroup as group:
        # One error alone (the caller's own, or a taken port) leaves as itself.
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise
