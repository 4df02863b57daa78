"""`make run`: the whole system on this machine, with simulated engines, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp

from deploy.local import services
from deploy.local.children import Child, LaunchError, spawn, stop_all
from deploy.local.services import Service

START_S = 60.0
"""For one service to be ready."""
STOP_S = 10.0
"""For one service to end by itself; the proxy waits for its live requests."""
POLL_S = 0.1
PROBE_S = 2.0

READY = "Ready. Ask it something:"


class Stopped(Exception):
    """Ctrl-C or a signal: the ordinary end."""


class Fleet:
    """The services of one run, in the order of their start. Owns their processes."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._stages: list[list[Child]] = []

    async def start(self, stage: Sequence[Service], watch: asyncio.TaskGroup) -> None:
        """Starts services at once, and waits until all are ready. `watch` fails when one of them ends.

        Raises:
            LaunchError: one cannot be started, or is not ready in time.
        """
        children: list[Child] = []
        self._stages.append(children)
        for service in stage:
            child = await spawn(service.name, service.argv, self._logs / f"{service.name}.log")
            children.append(child)
            watch.create_task(child.must_live())
        for service in stage:
            await _ready(service)

    async def stop(self) -> None:
        """Ends everything, last started first ended: the proxy may finish its requests on living engines."""
        await stop_all(reversed(self._stages), STOP_S)

    def kill(self) -> None:
        """Ends everything at once."""
        for stage in self._stages:
            for child in stage:
                child.signal(signal.SIGKILL)


async def run(host: str, port: int, folder: Path) -> None:
    """Runs the system until a signal comes; `folder` gets the logs and etcd's data.

    Raises:
        LaunchError: it could not be started, or a part of it ended.
    """
    failure: BaseException | None = None
    fleet = Fleet(folder)
    signals = _signals()
    try:
        async with asyncio.TaskGroup() as watch:
            watch.create_task(_until_a_signal(signals))
            await _start(fleet, watch, host, port, folder)
    except* Stopped:
        print("\nStopping (once more: at once) ...", flush=True)
    except* LaunchError as failures:
        failure = failures.exceptions[0]  # the first to end: the others may only follow from it
    finally:
        _on_signal(fleet.kill)
        await fleet.stop()
    if failure is not None:
        raise failure


async def _start(fleet: Fleet, watch: asyncio.TaskGroup, host: str, port: int, folder: Path) -> None:
    with services.free_ports(8) as free:
        client, peer, *ports = free
    registry = services.etcd(client, peer, folder)
    engines = [
        services.prefill(1, ports[0], ports[4], registry.url),
        services.prefill(2, ports[1], ports[5], registry.url),
        services.decode(1, ports[2], registry.url),
        services.decode(2, ports[3], registry.url),
    ]
    door = services.proxy(host, port, registry.url)
    for stage in ([registry], engines, [door]):
        print(f"Starting {', '.join(each.name for each in stage)} ...", flush=True)
        await fleet.start(stage, watch)
    print(_welcome([registry, *engines, door], folder), flush=True)


async def _ready(service: Service) -> None:
    """Polls a service until it answers 200; a refusal to connect is only "not yet".

    Raises:
        LaunchError: it was not ready within START_S; the message holds its last answer.
    """
    answer = "nothing listens there yet"
    timeout = aiohttp.ClientTimeout(total=PROBE_S)
    try:
        async with asyncio.timeout(START_S), aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                try:
                    async with session.get(service.url + service.probe) as response:
                        if response.status == 200:
                            return
                        answer = f"{response.status} {(await response.text())[:500]}"
                except aiohttp.ClientConnectionError:
                    pass
                except TimeoutError:
                    answer = f"no answer within {PROBE_S:g} s"
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        where = service.url + service.probe
        raise LaunchError(f"{service.name} is not ready after {START_S:g} s: {where}: {answer}") from None


def _welcome(running: Sequence[Service], folder: Path) -> str:
    """What runs where, and a request to paste."""
    name_width = max(len(each.name) for each in running)
    url_width = max(len(each.url) for each in running)
    rows = [f"  {each.name:<{name_width}}  {each.url:<{url_width}}  {each.note}".rstrip() for each in running]
    curl = (
        f'curl -X POST {running[-1].url}/generate -H "Content-Type: application/json" '
        """-d '{"text": "Let me tell you a story ", "sampling_params": {"temperature": 0.3}}'"""
    )
    return "\n".join(["", *rows, "", f"Logs: {folder}", "", READY, "", curl, "", "Ctrl-C ends everything."])


def _signals() -> asyncio.Queue[None]:
    """A queue that gets an item when somebody wants the end."""
    wanted: asyncio.Queue[None] = asyncio.Queue(maxsize=1)
    _on_signal(lambda: wanted.put_nowait(None) if wanted.empty() else None)
    return wanted


def _on_signal(call: Callable[[], object]) -> None:
    """Set explicitly, for a background job of a script inherits an ignored SIGINT."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, call)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # ignored: nohup wants us to stay
        loop.add_signal_handler(signal.SIGHUP, call)


async def _until_a_signal(signals: asyncio.Queue[None]) -> None:
    await signals.get()
    raise Stopped


def main() -> int:
    """The command line. Returns the exit code: 0 after a signal, 1 after a failure."""
    parser = argparse.ArgumentParser(prog="make run", description=__doc__)
    parser.add_argument(
        "--host", default=services.LOOPBACK, help="address of the proxy (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, default=30000, help="port of the proxy (default: %(default)s)")
    options = parser.parse_args()
    try:
        services.require_free(options.host, options.port)
    except LaunchError as error:
        print(f"make run: {error}", file=sys.stderr)
        return 1
    folder = Path(tempfile.mkdtemp(prefix="pd-proxy-run-"))
    try:
        asyncio.run(run(options.host, options.port, folder))
    except LaunchError as error:
        shutil.rmtree(folder / "etcd-data", ignore_errors=True)
        print(f"\nmake run: {error}\n\nThe logs are kept in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
