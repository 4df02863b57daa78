"""`pd-worker --engine sglang`: everything put together, for one run."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import uuid
from collections.abc import Mapping
from contextlib import AsyncExitStack

import structlog
from aiohttp import web

from proxy.clock import SystemClock, sleep
from proxy.discovery.etcd import Etcd
from proxy.discovery.record import Keys
from proxy.roster import Role, State, Worker
from workers.announcer import Announcer
from workers.console import Console, ConsoleLogger, line_of
from workers.drain import Leaving
from workers.engine_api import EngineApi, ServerFacts, key_in
from workers.facts import EVERY_ADDRESS
from workers.figures import Figures
from workers.http import Control
from workers.plan import LaunchPlan
from workers.restarts import Restarts
from workers.settings import WorkerSettings
from workers.supervisor import Supervisor

log = structlog.get_logger("pd-worker")

PORT_TAKEN = 3
"""Exit code: the worker's own port."""
_OWN_VARIABLES = "PD_WORKER_"
_STDOUT = 1


async def serve(settings: WorkerSettings, plan: LaunchPlan, environ: Mapping[str, str]) -> int:
    """Runs the planned engine until it is told to end, or gives up.

    Returns:
        The exit code; docs/workers-running.md lists them.
    """
    console = Console(_STDOUT)
    _log_to(console)
    try:
        return await _serve(settings, plan, environ, console)
    finally:
        console.close()


async def _serve(
    settings: WorkerSettings, plan: LaunchPlan, environ: Mapping[str, str], console: Console
) -> int:
    leaving = Leaving()
    loop = asyncio.get_running_loop()
    # Explicitly: a background job of a script inherits SIGINT ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leaving.signalled, number.name)
    clock, role, key = SystemClock(), Role(plan.role), key_in(plan.argv)
    rules = settings.etcd_rules()
    async with AsyncExitStack() as stack:
        etcd = None if rules is None else await stack.enter_async_context(Etcd(rules))
        api = EngineApi(role, plan.host, plan.port, plan.bootstrap_port, key)
        stack.push_async_callback(api.close)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        announcer = Announcer(
            etcd if plan.registers else None,
            Keys(settings.registry_root),
            tasks,
            ttl_s=settings.registry_ttl_s,
            on_wish=leaving.wished,
            clock=clock,
            sleep=sleep,
            rng=random.Random(),
        )
        record = _Record(plan)
        supervisor = Supervisor(
            plan,
            settings,
            api,
            announcer,
            leaving,
            Restarts(
                settings.crash_limit, settings.crash_forgotten_s, settings.restart_wait_s, random.Random()
            ),
            environ={name: value for name, value in environ.items() if not name.startswith(_OWN_VARIABLES)},
            describe=record.of,
            on_ready=lambda worker: console.say(ready_line(worker)),
            clock=clock,
            sleep=sleep,
        )
        info = {"role": role.value, "model": plan.model_name, "worker_id": plan.worker_id}
        figures = Figures(supervisor, announcer, info)
        control = Control(supervisor, announcer, leaving, figures, plan.render(), role, settings.control_key)
        host = settings.control_host or plan.host
        try:
            port = await _listen(control.application(), host, settings.control_port, stack)
        except OSError as error:
            log.error(f"cannot listen on {host}:{settings.control_port}: {error.strerror}")
            return PORT_TAKEN
        # Others are told where it listens; of "every address", the one at which they reach the engine too.
        reached = plan.advertise_host if host in EVERY_ADDRESS or not settings.control_host else host
        record.control_url = f"http://{_bracketed(reached)}:{port}"
        log.info("starting", role=role.value, model=plan.model_name, control=record.control_url)
        if settings.console:
            console.follow(plan.log_file, _size(plan))
        return await supervisor.run()


class _Record:
    """The worker's record in the registry: another instance for each life."""

    def __init__(self, plan: LaunchPlan) -> None:
        self._plan = plan
        self.control_url: str | None = None

    def of(self, facts: ServerFacts) -> Worker:
        plan, prefill = self._plan, Role(self._plan.role) is Role.PREFILL
        if None not in (facts.version, plan.engine_version) and facts.version != plan.engine_version:
            log.warning("the engine is of another version than planned", told=facts.version)
        return Worker(
            worker_id=plan.worker_id,
            url=f"http://{_bracketed(plan.advertise_host)}:{plan.port}",
            role=Role(plan.role),
            model=plan.model_name,
            bootstrap_host=plan.advertise_host if prefill else None,
            bootstrap_port=plan.bootstrap_port if prefill else None,
            engine="sglang",
            engine_version=facts.version or plan.engine_version,
            tp_size=facts.tp_size or plan.tp_size,
            dp_size=facts.dp_size or plan.dp_size,
            transfer_backend=plan.transfer_backend,
            max_running_requests=facts.max_running_requests,
            max_total_tokens=facts.max_total_tokens,
            weights_fingerprint=plan.weights_fingerprint,
            node=plan.node,
            control_url=self.control_url,
            instance=uuid.uuid4().hex,
            state=State.READY,
            started_at=SystemClock.time(),
        )


def ready_line(worker: Worker) -> str:
    """What a script waits for: `pd-worker ready`, then name=value pairs."""
    bootstrap = f" bootstrap={worker.bootstrap_host}:{worker.bootstrap_port}" if worker.bootstrap_port else ""
    return (
        f"pd-worker ready role={worker.role} url={worker.url}{bootstrap} model={worker.model} "
        f"engine=sglang version={worker.engine_version} worker_id={worker.worker_id} pid={os.getpid()} "
        f"control={worker.control_url}"
    )


async def _listen(app: web.Application, host: str, port: int, stack: AsyncExitStack) -> int:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, host, port).start()
    return int(runner.addresses[0][1])


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _size(plan: LaunchPlan) -> int:
    try:
        return plan.log_file.stat().st_size
    except OSError:
        return 0


def _log_to(console: Console) -> None:
    """All logging of this process goes through the console's thread: no line can block the loop."""
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
            structlog.processors.format_exc_info,
            line_of,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: ConsoleLogger(console),
        cache_logger_on_first_use=False,
    )
