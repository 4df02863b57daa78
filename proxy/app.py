"""The composition root: builds every object, and owns the outermost task groups."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Awaitable, Callable
from importlib.metadata import version

import structlog
import uvloop
from aiohttp import web

from proxy import rules
from proxy.clock import SystemClock, sleep
from proxy.control.application import build_application, build_metrics_application
from proxy.control.deps import ControlDeps
from proxy.discovery.etcd import Etcd
from proxy.discovery.record import Keys
from proxy.discovery.snapshot import SnapshotFile
from proxy.discovery.static import static_workers
from proxy.discovery.watcher import Watcher
from proxy.edge.connection import ClientConnection
from proxy.edge.door import Door
from proxy.edge.listener import inherited, listen
from proxy.errors import SettingsError
from proxy.flow.admission import Admission
from proxy.flow.carriage import Carriage, Means
from proxy.flow.corridor import Corridor
from proxy.flow.journal import Journal
from proxy.gauges import declare_gauges
from proxy.ids import Ids
from proxy.leaving import Leaving
from proxy.roster import Change, Worker
from proxy.routing.ledger import Ledger
from proxy.routing.lineup import unequal_tp
from proxy.routing.pool import Pool
from proxy.runtime import keep_freed_memory, raise_open_files, settle_garbage_collector
from proxy.settings import Settings
from proxy.telemetry import logs
from proxy.telemetry.logs import RequestLog
from proxy.telemetry.metrics import Metrics, measure_loop_lag
from proxy.upstream.aborter import Aborter
from proxy.upstream.carriers import Carriers
from proxy.upstream.inquiries import Inquiries
from proxy.upstream.probes import Probes
from proxy.upstream.sweeper import Sweeper

log = structlog.get_logger("proxy")
_RESTART_S = 1.0


def run(settings: Settings) -> int:
    """Runs the proxy until it is told to end.

    Returns:
        The process's exit code.
    """
    request_log = logs.configure(settings.log.level, settings.log.format, sys.stderr)
    raise_open_files()
    keep_freed_memory()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_main(settings, request_log))
    except SettingsError as error:
        print(f"pd-proxy: {error.message}", file=sys.stderr)
        return 2
    return 0


async def _main(settings: Settings, request_log: RequestLog) -> None:
    service = Service(settings, request_log)
    service.leaving.listen_to_signals()
    try:
        await service.run()
    finally:
        await service.close()


class Service:
    """Every object of the proxy, joined."""

    def __init__(self, settings: Settings, request_log: RequestLog) -> None:
        """Builds all; nothing is open yet.

        Raises:
            SettingsError: a static worker is wrong.
        """
        self.settings = settings
        loop = asyncio.get_running_loop()
        rng = random.Random()
        clock = self.clock = SystemClock()
        self.metrics = Metrics()
        self.pool = Pool(rules.pool(settings), clock, rng)
        self.sweeper = Sweeper(clock.monotonic)
        self.ledger = Ledger(settings.limits.held_bytes)
        self.carriers = Carriers(rules.carriers(settings), loop, self._connected)
        self.sweeper.members.add(self.carriers)
        self.sweeper.members.add(self.metrics)
        self.admission = Admission(self.pool, rules.admission(settings), loop)
        self.inquiries = Inquiries(rules.revealed(settings.upstream.api_key), settings.upstream.connect_s)
        self.aborter = Aborter(rules.aborter(settings), self.inquiries, self.metrics.aborts, clock, sleep)
        self.carriers.on_cut = self.aborter.tell
        self.probes = Probes(rules.probes(settings), self.pool, self.inquiries, clock, rng)
        ids = Ids(rng)
        means = Means(
            pool=self.pool,
            admission=self.admission,
            carriers=self.carriers,
            inquiries=self.inquiries,
            sweeper=self.sweeper,
            ledger=self.ledger,
            metrics=self.metrics,
            clock=clock,
            sleep=sleep,
            rng=rng,
            new_rid=ids.fresh,
            loop=loop,
        )
        self.carriage = Carriage(rules.carriage(settings), means)
        self.corridor = Corridor(
            means,
            self.carriage,
            Journal(self.metrics, request_log, clock),
            settings.retries.report_attempts,
            settings.retries.early_head_s,
        )
        self.requests = asyncio.TaskGroup()
        self.deps = self._control_deps(settings)
        self.control = web.AppRunner(build_application(self.deps), access_log=None)
        self.metrics_control = web.AppRunner(build_metrics_application(self.deps), access_log=None)
        self.door = Door(
            rules.door(settings),
            self.corridor,
            self.ledger,
            self.sweeper,
            clock,
            ids.fresh,
            self.requests.create_task,
            lambda: self._control_protocol(),
        )
        self.leaving = Leaving(self.door, settings.server.lame_duck_s, settings.server.drain_s, clock)
        self.etcd = Etcd(rules.etcd(settings)) if settings.discovery.etcd_endpoints else None
        self.watcher = self._watcher(self.etcd, rng) if self.etcd is not None else None
        self.pool.on_change = self._changed
        self.pool.on_leave = lambda worker: self.metrics.forget(worker.worker_id)
        self._told_of_tp: str | None = None
        self.ports: tuple[int, ...] = ()
        """Where it listens; empty until it does."""
        static = static_workers(
            [(str(p.url), p.bootstrap_port) for p in settings.static.prefill],
            [str(url) for url in settings.static.decode],
            model=settings.static.model,
        )
        self.pool.apply([Change(worker.worker_id, worker) for worker in static])
        declare_gauges(self)

    # --- building

    def _control_deps(self, settings: Settings) -> ControlDeps:
        server = settings.server
        return ControlDeps(
            pool=self.pool,
            inquiries=self.inquiries,
            clock=self.clock,
            metrics_exposition=self.metrics.exposition,
            readiness=self.unready,
            abort_rid=self._abort,
            version=version("pd-proxy"),
            started_at=self.clock.time(),
            admin_key=rules.revealed(server.admin_key),
            api_key=rules.revealed(server.api_key),
            own_addresses=(f"{server.metrics_host or server.host}:{server.metrics_port or server.port}",),
        )

    async def _abort(self, rid: str) -> int:
        return self.corridor.abort(rid)

    def _control_protocol(self) -> asyncio.Protocol:
        assert self.control.server is not None
        protocol: asyncio.Protocol = self.control.server()
        return protocol

    def _watcher(self, etcd: Etcd, rng: random.Random) -> Watcher:
        discovery = self.settings.discovery
        keys = Keys(discovery.root)
        path = discovery.snapshot_path
        return Watcher(
            etcd,
            keys,
            self.pool.apply,
            self.probes.answers,
            clock=self.clock,
            sleep=sleep,
            rng=rng,
            snapshot=None if path is None else SnapshotFile(path, keys, self.clock),
            hold_s=discovery.panic_s,
        )

    def _changed(self) -> None:
        self.probes.wake()
        warning = unequal_tp(member.worker for member in self.pool.members())
        if warning != self._told_of_tp:
            self._told_of_tp = warning
            if warning is not None:
                log.warning(warning)

    def _connected(self, worker: Worker, ok: bool) -> None:
        figures = self.metrics.worker(worker)
        figures.connects += ok
        figures.connect_failures += not ok

    def unready(self) -> str | None:
        """Why no request should come here; None if it may."""
        if self.leaving.begun:
            return "this proxy is about to end"
        reason = self.pool.unready()
        if reason is not None and self.watcher is not None and not self.watcher.synced:
            return f"{reason}; the registry has not answered yet"
        return reason

    # --- life

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT, then leaves without losing a request.

        Raises:
            SettingsError: the port is taken.
        """
        server = self.settings.server
        sockets = inherited(os.environ) or listen(server.host, server.port, server.backlog)
        await self.control.setup()
        await self._open_metrics_port()
        async with asyncio.TaskGroup() as background:
            tasks = [background.create_task(self._keep_running(*task)) for task in self._background()]
            async with self.requests:
                loop = asyncio.get_running_loop()
                servers = [
                    await loop.create_server(
                        lambda: ClientConnection(self.door), sock=one, backlog=server.backlog
                    )
                    for one in sockets
                ]
                settle_garbage_collector()
                self.ports = tuple(one.getsockname()[1] for one in sockets)
                log.info("listening", host=server.host, ports=self.ports)
                await self.leaving.see_off(servers)
            for task in tasks:
                task.cancel()

    async def _open_metrics_port(self) -> None:
        server = self.settings.server
        if server.metrics_port is not None:
            await self.metrics_control.setup()
            for one in listen(server.metrics_host or server.host, server.metrics_port, server.backlog):
                await web.SockSite(self.metrics_control, one).start()

    def _background(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        tasks: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("sweeper", lambda: self.sweeper.run(sleep)),
            ("probes", self.probes.run),
            ("aborts", self.aborter.run),
            ("loop lag", lambda: measure_loop_lag(self.metrics, self.clock, sleep)),
        ]
        if self.watcher is not None:
            tasks.append(("registry", self.watcher.run))
        return tasks

    async def _keep_running(self, name: str, task: Callable[[], Awaitable[None]]) -> None:
        """The one catch-all of a background task: a fault in it must not end live streams."""
        while True:
            try:
                await task()
            except Exception:
                log.exception("a background task failed and is started again", task=name)
            await sleep(_RESTART_S)

    async def close(self) -> None:
        """Closes what is open."""
        self.carriers.close()
        await self.inquiries.close()
        await self.control.cleanup()
        await self.metrics_control.cleanup()
        if self.etcd is not None:
            await self.etcd.close()
