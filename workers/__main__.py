"""`pd-worker`: runs one worker until SIGTERM or SIGINT, then drains, withdraws and ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack

import uvloop

from proxy.errors import SettingsError
from workers.engine.presence import present
from workers.engine.server import Engine, serve_engine
from workers.settings import WorkerSettings, read_settings

_BAD_SETTING = 2
_PORT_TAKEN = 3


def main() -> None:
    """The console script."""
    try:
        settings = read_settings(sys.argv[1:])
        if settings.engine == "sglang":
            raise SettingsError(
                "engine: sglang is not in this version yet; use --engine simulated, or start "
                "sglang.launch_server yourself and name it to pd-proxy with --prefill and --decode"
            )
        settings.etcd_rules()
    except (SettingsError, ValueError) as error:
        sys.exit(_complain(str(error), _BAD_SETTING))
    sys.exit(uvloop.run(run(settings)))


def _complain(message: str, code: int) -> int:
    for line in message.splitlines():
        print(f"pd-worker: {line}", file=sys.stderr)
    return code


async def run(settings: WorkerSettings) -> int:
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
            return _complain(f"cannot listen on {where}: {error.strerror}", _PORT_TAKEN)
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


if __name__ == "__main__":
    main()
