"""Simulated engines for tests: in this process (cheap), or as processes of their own (can be killed).

    async with start_engine(role="prefill") as p, start_engine(role="decode") as d:
        body = paired({"text": "hello", "sampling_params": {"max_new_tokens": 8}}, p)
        ...
    assert text == expected("hello", 8)

`role`, `engine_version` and all other keywords are fields of `workers.engine.config.EngineConfig`.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import aiohttp

from proxy.roster import Role, Worker
from workers.engine.config import EngineConfig
from workers.engine.faults import Fault
from workers.engine.oracle import Model, chat_prompt, completion
from workers.engine.server import Engine, serve_engine

START_S = 30.0
BOTH_GENERATIONS = ("0.5.2", "0.5.23")


class SimEngine(Protocol):
    """A running engine, wherever it runs."""

    @property
    def config(self) -> EngineConfig: ...
    @property
    def url(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def bootstrap_port(self) -> int: ...
    @property
    def worker(self) -> Worker: ...

    async def state(self) -> dict[str, Any]:
        """What GET /simulate/state answers."""
        ...

    async def fault(self, kind: str, **fields: Any) -> None:
        """Arms a fault; `fields` of `workers.engine.faults.Fault`, and `seed`."""
        ...

    async def clear_faults(self) -> None: ...

    async def kill(self) -> None:
        """SIGKILL, or what looks like it."""
        ...


class InProcess:
    """An engine in this process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.config = engine.config
        self.url = engine.url
        self.port = engine.port
        self.bootstrap_port = engine.bootstrap_port

    @property
    def worker(self) -> Worker:
        return self.engine.worker

    async def state(self) -> dict[str, Any]:
        return self.engine.state()

    async def fault(self, kind: str, **fields: Any) -> None:
        seed = fields.pop("seed", None)
        fault = Fault.model_validate({"kind": kind, **fields})
        if fault.kind == "refuse":
            await self.engine.refuse_for(fault.for_s)
        else:
            self.engine.faults.add(fault, seed)

    async def clear_faults(self) -> None:
        self.engine.faults.clear()

    async def kill(self) -> None:
        await self.engine.kill()


class OwnProcess:
    """An engine as `python -m workers`."""

    def __init__(
        self, config: EngineConfig, process: asyncio.subprocess.Process, told: Mapping[str, str]
    ) -> None:
        self.config = config
        self.process = process
        self.url = told["url"]
        self.port = int(self.url.rsplit(":", 1)[1])
        self.bootstrap_port = int(told["bootstrap"].rsplit(":", 1)[1]) if "bootstrap" in told else 0
        prefill = config.role is Role.PREFILL
        self.worker = Worker(
            worker_id=told["worker_id"],
            url=self.url,
            role=config.role,
            model=config.model,
            bootstrap_host=config.host if prefill else None,
            bootstrap_port=self.bootstrap_port if prefill else None,
            engine="sglang",
            engine_version=config.engine_version,
            max_running_requests=config.max_running_requests,
        )

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, self.url + path, json=body) as answer,
        ):
            answer.raise_for_status()
            return await answer.json() if answer.content_type == "application/json" else None

    async def state(self) -> dict[str, Any]:
        found: dict[str, Any] = await self._call("GET", "/simulate/state")
        return found

    async def fault(self, kind: str, **fields: Any) -> None:
        await self._call("POST", "/simulate/faults", {"kind": kind, **fields})

    async def clear_faults(self) -> None:
        await self._call("DELETE", "/simulate/faults")

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def terminate(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), START_S)


def flags(config: EngineConfig) -> list[str]:
    """`config` as flags of pd-worker, what differs from the defaults only."""
    made: list[str] = []
    for name, value in config.model_dump(exclude_defaults=True).items():
        flag = f"--{name.replace('_', '-')}"
        made += [flag] if value is True else [flag, str(value)]
    return made


@asynccontextmanager
async def start_engine(role: str = "regular", **fields: Any) -> AsyncIterator[InProcess]:
    """An engine in this process, on free ports unless `port` and `bootstrap_port` say otherwise."""
    worker_id = fields.pop("worker_id", None)
    async with serve_engine(EngineConfig(role=Role(role), **fields), worker_id=worker_id) as engine:
        yield InProcess(engine)


@asynccontextmanager
async def start_engine_process(
    role: str = "regular", more: Sequence[str] = (), **fields: Any
) -> AsyncIterator[OwnProcess]:
    """An engine as a process of its own; `more` are further flags (--etcd-endpoints ...)."""
    config = EngineConfig(role=Role(role), **fields)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "workers", "--engine", "simulated", *flags(config), *more,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), START_S)).decode()
        if not line.startswith("pd-worker ready"):
            raise RuntimeError(f"the engine did not start: {line!r}")
        yield OwnProcess(config, process, dict(word.split("=", 1) for word in line.split() if "=" in word))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def paired(
    body: Mapping[str, Any], prefill: SimEngine, room: int | None = None, **more: Any
) -> dict[str, Any]:
    """`body` with the bootstrap keys that a proxy adds."""
    return {
        **body,
        "bootstrap_host": prefill.config.host,
        "bootstrap_port": prefill.bootstrap_port,
        "bootstrap_room": random.randrange(1, 2**62) if room is None else room,
        **more,
    }


def expected(prompt: str | Sequence[int], n_tokens: int, engine: SimEngine | None = None) -> str:
    """The one right text; `engine` where its config changes the model (split_characters)."""
    return completion(prompt, n_tokens, model_of(engine)).text


def expected_chat(
    messages: Sequence[Mapping[str, Any]], n_tokens: int, engine: SimEngine | None = None
) -> str:
    """The one right answer to a chat."""
    return completion(chat_prompt(messages), n_tokens, model_of(engine)).text


def model_of(engine: SimEngine | None) -> Model:
    """The model that `engine` runs."""
    if engine is None:
        return Model()
    return Model(engine.config.split_characters, engine.config.mean_output_tokens)


async def idle(*engines: SimEngine, within_s: float = 5.0) -> None:
    """Waits until nothing is live on any engine: asserted after every test.

    Raises:
        AssertionError: something still is.
    """
    deadline = time.monotonic() + within_s
    for engine in engines:
        while (state := await engine.state())["live"] or state["rooms_open"] or state["kv_receiving"]:
            assert time.monotonic() < deadline, {k: v for k, v in state.items() if k != "requests"}
            await asyncio.sleep(0.01)


async def reached(engine: SimEngine, key: str, least: int = 1, within_s: float = 10.0) -> None:
    """Waits until a number of the engine's state has grown to `least`.

    Raises:
        AssertionError: it has not.
    """
    deadline = time.monotonic() + within_s
    while (found := (await engine.state())[key]) < least:
        assert time.monotonic() < deadline, f"{key} is {found}, not {least}"
        await asyncio.sleep(0.01)
