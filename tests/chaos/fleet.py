"""Engines, etcd and the proxy as processes, and a hand that strikes them."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.chaos.plan import ETCD, FREEZE, KILL, TAKES_AWAY, Strike
from tests.support.engines import OwnProcess, start_engine_process
from tests.support.etcd import Etcd, free_ports, start_etcd
from tests.support.proxies import eventually

_TTL_S = "3"
_START_S = 60.0
_PROXY_FLAGS = (
    *("--upstream-connect-s", "1", "--upstream-first-token-s", "4"),
    *("--upstream-first-token-after-prefill-s", "3", "--upstream-between-chunks-s", "3"),
    *("--health-interval-s", "1", "--health-timeout-s", "1", "--breaker-open-s", "1"),
    *("--routing-slow-start-s", "0", "--routing-queue-s", "10", "--server-lame-duck-s", "0"),
    *("--server-drain-s", "5", "--log-format", "json"),
)


class Slot:
    """An engine's place: its address outlives its processes."""

    def __init__(self, role: str, etcd: Etcd, **config: Any) -> None:
        port, bootstrap_port = free_ports(2)
        self.role = role
        self.busy = False
        """Whether something is being done to it."""
        self.doomed = False
        """Whether its next request will kill it."""
        self._flags = ["--etcd-endpoints", etcd.url, "--registry-ttl-s", _TTL_S]
        self._config = {"port": port, **({"bootstrap_port": bootstrap_port} if role == "prefill" else {})}
        self._config |= config
        self._stack = AsyncExitStack()
        self.engine: OwnProcess

    async def start(self) -> None:
        """A new process at the old address. The kernel may just have lent the port to somebody: tried again.

        Raises:
            RuntimeError, TimeoutError: it does not start.
        """
        self.doomed = False
        deadline = time.monotonic() + _START_S
        while True:
            try:
                self.engine = await self._stack.enter_async_context(
                    start_engine_process(self.role, self._flags, **self._config)
                )
                return
            except (RuntimeError, TimeoutError):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.3)

    async def close(self) -> None:
        """Ends it."""
        await self._stack.aclose()

    @property
    def dead(self) -> bool:
        return self.engine.process.returncode is not None

    @property
    def down(self) -> bool:
        """Whether it does not serve, or will not for long."""
        return self.busy or self.doomed or self.dead

    async def strike(self, strike: Strike) -> None:
        """Does what is said, and undoes it after its time."""
        if strike.kind == KILL:
            await self.engine.kill()
            await asyncio.sleep(strike.down_s)
            await self.start()
        elif strike.kind == FREEZE:
            self.engine.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(strike.down_s)
            self.engine.process.send_signal(signal.SIGCONT)
        else:
            self.doomed = strike.kind == "die"
            await self.engine.fault(strike.kind, **strike.fields)


@dataclass
class Fleet:
    """Everything that runs."""

    etcd: Etcd
    slots: list[Slot]
    url: str
    """Of the proxy."""
    log: Path
    """What the proxy says."""
    timeline: list[str] = field(default_factory=list)
    """What was done, for a reader of a failure."""

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    async def undergo(self, plan: list[Strike]) -> None:
        """Carries a plan out, each strike at its time, but for those that would leave a role to nobody."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            raising = group.create_task(self._raise_the_dead(began))
            for strike in plan:
                await asyncio.sleep(max(strike.at_s - (time.monotonic() - began), 0))
                group.create_task(self._carry_out(strike, began))
            raising.cancel()

    async def _raise_the_dead(self, began: float) -> None:
        """Engines that died of a fault come back after a while, as a supervisor would have it."""
        while True:
            await asyncio.sleep(1.0)
            for number, slot in enumerate(self.slots):
                if slot.dead and not slot.busy:
                    told = f"{slot.role} {number} comes back"
                    self.timeline.append(f"{time.monotonic() - began:6.2f} s  {told}")
                    await slot.start()

    async def _carry_out(self, strike: Strike, began: float) -> None:
        target = "etcd" if strike.kind == ETCD else f"{self.slots[strike.target].role} {strike.target}"
        told = f"{time.monotonic() - began:6.2f} s  {target:9} {strike.kind} {strike.fields or ''}"
        if strike.kind == ETCD:
            self.timeline.append(f"{told} for {strike.down_s:.1f} s")
            await asyncio.to_thread(self.etcd.kill)
            await asyncio.sleep(strike.down_s)
            await self.etcd.restart()
            return
        slot = self.slots[strike.target]
        if slot.down or (strike.kind in TAKES_AWAY and self._is_last(slot)):
            self.timeline.append(f"{told}: left out, it is {'down' if slot.down else 'the last'}")
            return
        slot.busy = True
        try:
            self.timeline.append(told + (f" for {strike.down_s:.1f} s" if strike.down_s else ""))
            await slot.strike(strike)
        except (aiohttp.ClientError, OSError) as error:
            self.timeline.append(f"{told}: not taken, {error!r}")
        finally:
            slot.busy = False

    def _is_last(self, slot: Slot) -> bool:
        return all(other.down for other in self.slots if other.role == slot.role and other is not slot)

    async def heal(self) -> None:
        """Every engine lives and has no fault."""
        for slot in self.slots:
            if slot.dead:
                await slot.start()
            await slot.engine.clear_faults()

    async def metrics(self) -> str:
        """What the proxy exports."""
        async with aiohttp.ClientSession(self.url) as http, http.get("/metrics") as answer:
            return await answer.text()


@asynccontextmanager
async def start_fleet(prefills: int, decodes: int, **config: Any) -> AsyncIterator[Fleet]:
    """etcd, engines that register themselves, and a proxy that has found all of them; as processes."""
    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(start_etcd())
        slots = [Slot("prefill", etcd, **config) for _ in range(prefills)]
        slots += [Slot("decode", etcd, **config) for _ in range(decodes)]
        for slot in slots:
            stack.push_async_callback(slot.close)
        async with asyncio.TaskGroup() as group:
            for slot in slots:
                group.create_task(slot.start())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        log = folder / "proxy.log"
        url = await stack.enter_async_context(_proxy(etcd, log))
        fleet = Fleet(etcd, slots, url, log)
        await eventually(lambda: _knows(url, len(slots)), _START_S, lambda: tail_of(log))
        yield fleet


async def _knows(url: str, count: int) -> bool:
    try:
        async with aiohttp.ClientSession(url) as http, http.get("/workers") as answer:
            workers = (await answer.json())["workers"] if answer.status == 200 else []
            return sum(bool(worker.get("is_healthy", True)) for worker in workers) >= count
    except aiohttp.ClientError:
        return False


@asynccontextmanager
async def _proxy(etcd: Etcd, log: Path) -> AsyncIterator[str]:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "proxy", "--host", "127.0.0.1", "--port", str(port), "--etcd", etcd.url]
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(*command, *_PROXY_FLAGS, stdout=output, stderr=output)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            code = await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
    assert code == 0, f"the proxy ended with code {code}:\n{tail_of(log)}"


def tail_of(log: Path) -> str:
    """The last that a process said."""
    return log.read_text(errors="replace")[-3000:]
