"""`pd-worker --engine simulated`: the simulated engine in this process, and its place in the registry."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack

from workers.engine.presence import present
from workers.engine.server import Engine, serve_engine
from workers.settings import WorkerSettings

_PORT_TAKEN = 3


async def simulate(settings: WorkerSettings) -> int:
    """Serves until told to stop.

    Returns:
        The exit code.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    # Explicitly: a background job of a script inherits SIGINT ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    rules = settings.etcd_rules()
    async with AsyncExitStack() as stack:
        try:
            engine = await stack.enter_async_context(
                serve_engine(settings.engine_config(), die=_die, worker_id=settings.worker_id)
            )
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            if settings.bootstrap_port:
                where += f" or {settings.host}:{settings.bootstrap_port} (bootstrap)"
            print(f"pd-worker: cannot listen on {where}: {error.strerror}", file=sys.stderr)
            return _PORT_TAKEN
        presence = None
        if rules is not None:
            presence = await stack.enter_async_context(
                present(engine, rules, settings.registry_root, settings.registry_ttl_s)
            )
        print(ready_line(engine), flush=True)
        await stop.wait()
        engine.start_draining()
        if presence is not None:
            await presence.tell()
        await engine.drain()
        if presence is not None:
            await presence.withdraw()
    return 0


def ready_line(engine: Engine) -> str:
    """What a script waits for: `pd-worker ready`, then name=value pairs."""
    worker = engine.worker
    bootstrap = f" bootstrap={engine.config.host}:{engine.bootstrap_port}" if engine.bootstrap_port else ""
    return (
        f"pd-worker ready role={worker.role} url={worker.url}{bootstrap} model={worker.model} "
        f"engine=simulated version={worker.engine_version} worker_id={worker.worker_id} pid={os.getpid()}"
    )


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
