"""Simulated engines for the failure bench: all of one role in one process, to spare memory and start-up.

`python -m bench.failures_fleet prefill 3 0.5.23` serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import uvloop

from bench.processes import Backends, Failed
from proxy.roster import Role
from workers.engine.config import EngineConfig
from workers.engine.server import serve_engine

MS_PER_TOKEN = 300.0
# why: far from any limit of the engines; the bench is about failing transfers, not about full queues.
_SLOTS = 4096


@dataclass(frozen=True, slots=True)
class Fleet:
    """Running engines."""

    prefills: tuple[str, ...]
    decodes: tuple[str, ...]
    backends: Backends

    def break_transfers(self, share: float, seed: int) -> None:
        """From now on `share` of all attempts fail: in bootstrap, in transfer, by truncation, a third each.

        Of the truncated ones every second breaks before its first token, as on 0.5.2 a failed transfer does,
        and every second in the middle, as on a crash.
        """
        third = share / 3
        for number, url in enumerate(self.prefills):
            _call(url, "faults", {"kind": "kv_bootstrap", "probability": third, "seed": seed + number})
            _call(url, "faults", {"kind": "kv_transfer", "probability": third})
        for number, url in enumerate(self.decodes):
            _call(url, "faults", {"kind": "truncate", "probability": third / 2, "seed": seed + 100 + number})
            _call(url, "faults", {"kind": "truncate", "probability": third / 2, "after_events": 8})

    def attempts(self) -> int:
        """Requests that the prefills have seen so far."""
        return sum(int(_call(url, "state")["total_requests"]) for url in self.prefills)

    def live(self) -> int:
        """Requests that any engine still works on, or holds a room for."""
        states = [_call(url, "state") for url in (*self.prefills, *self.decodes)]
        return sum(state["live"] + state["rooms_open"] for state in states)


@contextmanager
def fleet(prefills: int, decodes: int, version: str) -> Iterator[Fleet]:
    """Engines of one generation; two processes.

    Raises:
        Failed: they did not start.
    """
    with ExitStack() as stack:
        first = stack.enter_context(_engines(Role.PREFILL, prefills, version))
        second = stack.enter_context(_engines(Role.DECODE, decodes, version))
        yield Fleet(
            tuple(f"http://127.0.0.1:{port}" for port, _ in first),
            tuple(f"http://127.0.0.1:{port}" for port, _ in second),
            Backends(tuple(first), tuple(port for port, _ in second)),
        )


@contextmanager
def _engines(role: Role, count: int, version: str) -> Iterator[list[tuple[int, int]]]:
    """The ports of each engine: HTTP, bootstrap."""
    command = [sys.executable, "-m", "bench.failures_fleet", role, str(count), version]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise Failed(f"the simulated {role} engines did not start")
            yield [(port, bootstrap) for port, bootstrap in json.loads(line)]
        finally:
            process.kill()


def _call(url: str, what: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(f"{url}/simulate/{what}", data, timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


async def _serve(role: Role, count: int, version: str) -> None:
    # sglang-router asks each engine whether it speaks gRPC, and aiohttp would log a traceback each time.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    config = EngineConfig(
        role=role, engine_version=version, decode_ms_per_token=MS_PER_TOKEN, max_running_requests=_SLOTS
    )
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(serve_engine(config)) for _ in range(count)]
        print(json.dumps([[engine.port, engine.bootstrap_port] for engine in engines]), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(_serve(Role(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
