"""A stand-in for `python -m sglang.launch_server`: its flags, its processes, its ways to end; no GPU.

Serves the simulated engine on the ports that SGLang's flags name, beside two child processes called scheduler
and detokenizer. What else it shall do stands as JSON in the variable FAKE_SGLANG:

    startup_s       loads so long before it answers anything
    hang            loads for ever
    last_words      prints these lines at its start, and ends
    exit_code       with this code (1)
    crash_lives     ... only in its first lives; they are counted in the file `lives`
    lives           a file that gets one line for each life
    dies_after_s    ends by itself so long after it was ready, with `exit_code`
    ignores         names of signals that it and its children ignore
    stray           its children leave the process group, and one leaves its parent too
    chatter         lines a second on stdout
    engine          more fields of the simulated engine's config
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

_LOOK_S = 0.05
_CHILD = """
import os, signal, sys, time
for name in sys.argv[2].split(","):
    if name:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
if sys.argv[3] == "stray":
    os.setsid()
    if os.fork():  # a grandchild whose parent is about to end
        time.sleep(0.2)
        if sys.argv[1] == "stray":
            os._exit(0)
while True:
    time.sleep(60)
"""


class Behaviour:
    """FAKE_SGLANG, read once."""

    def __init__(self) -> None:
        told: dict[str, Any] = json.loads(os.environ.get("FAKE_SGLANG", "{}"))
        self.startup_s: float = told.get("startup_s", 0)
        self.hang: bool = told.get("hang", False)
        self.last_words: list[str] = told.get("last_words", [])
        self.exit_code: int = told.get("exit_code", 1)
        self.crash_lives: int | None = told.get("crash_lives")
        self.lives: str | None = told.get("lives")
        self.dies_after_s: float | None = told.get("dies_after_s")
        self.ignores: list[str] = told.get("ignores", [])
        self.stray: bool = told.get("stray", False)
        self.chatter: float = told.get("chatter", 0)
        self.engine: dict[str, Any] = told.get("engine", {})


def flags() -> argparse.Namespace:
    """Those of SGLang that matter here; the rest is taken and ignored, as values and all."""
    parser = argparse.ArgumentParser("launch_server.py", allow_abbrev=False)
    parser.add_argument("--model-path", "--model", required=True)
    parser.add_argument("--served-model-name")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=30000)
    parser.add_argument("--disaggregation-mode", default="null")
    parser.add_argument("--disaggregation-bootstrap-port", type=int, default=8998)
    parser.add_argument("--tp-size", "--tensor-parallel-size", "--tp", type=int, default=1)
    parser.add_argument("--dp-size", "--data-parallel-size", "--dp", type=int, default=1)
    parser.add_argument("--node-rank", type=int, default=0)
    parser.add_argument("--max-running-requests", type=int, default=64)
    parser.add_argument("--api-key")
    return parser.parse_known_args()[0]


def spawn_children(behaviour: Behaviour) -> list[subprocess.Popen[bytes]]:
    """The processes that SGLang has beside its first one."""
    stray = "stray" if behaviour.stray else ""
    names = ["scheduler", "detokenizer"] + (["stray"] if stray else [])
    ignored = ",".join(behaviour.ignores)
    return [subprocess.Popen([sys.executable, "-S", "-c", _CHILD, name, ignored, stray]) for name in names]


def life(path: str | None) -> int:
    """Which life this is, from 1."""
    if path is None:
        return 1
    with Path(path).open("a+") as file:
        file.write(f"{os.getpid()}\n")
        file.seek(0)
        return len(file.readlines())


async def serve(
    given: argparse.Namespace, behaviour: Behaviour, watched: list[subprocess.Popen[bytes]]
) -> int:
    """The simulated engine, until a signal, a child's death or its own hour; the exit code."""
    from workers.engine.config import EngineConfig  # why here: a crash at start needs none of it
    from workers.engine.server import serve_engine

    over: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def end(code: int) -> None:
        if not over.done():
            over.set_result(code)

    for name in ("SIGINT", "SIGTERM"):
        if name not in behaviour.ignores:
            asyncio.get_running_loop().add_signal_handler(getattr(signal, name), end, 0)
    role = {"null": "regular"}.get(given.disaggregation_mode, given.disaggregation_mode)
    config = EngineConfig(
        role=role,
        model=given.served_model_name or given.model_path,
        host=given.host,
        port=given.port,
        bootstrap_port=given.disaggregation_bootstrap_port if role == "prefill" else 0,
        engine_version=version("sglang"),
        tp_size=given.tp_size,
        dp_size=given.dp_size,
        api_key=given.api_key,
        max_running_requests=given.max_running_requests,
        **behaviour.engine,
    )
    async with serve_engine(config, die=lambda: os.kill(os.getpid(), signal.SIGKILL)):
        print("The server is fired up and ready to roll!", flush=True)
        born_s = time.monotonic()
        while not over.done():
            if any(child.poll() is not None for child in watched):
                print("Received sigquit from a child process. It usually means the child failed.", flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            age_s = time.monotonic() - born_s
            if behaviour.dies_after_s is not None and age_s >= behaviour.dies_after_s:
                end(behaviour.exit_code)
            for _ in range(int(behaviour.chatter * _LOOK_S)):
                print(f"Decode batch, #running-req: 0, age {age_s:.2f}", flush=True)
            await asyncio.wait((over,), timeout=_LOOK_S)
    return over.result()


def main() -> None:
    """As `python -m sglang.launch_server`."""
    given, behaviour = flags(), Behaviour()
    for name in behaviour.ignores:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    number = life(behaviour.lives)
    children = spawn_children(behaviour)
    code = behaviour.exit_code
    try:
        if behaviour.last_words and number <= (behaviour.crash_lives or number):
            sys.stderr.write("\n".join(behaviour.last_words) + "\n")
            sys.exit(code)
        time.sleep(behaviour.startup_s)
        while behaviour.hang or given.node_rank:
            time.sleep(0.1)
        code = asyncio.run(serve(given, behaviour, children[:2]))
    except KeyboardInterrupt:
        code = 0
    finally:
        for child in children if not behaviour.stray else []:  # SGLang kills its tree; a stray one escapes it
            child.kill()
    sys.exit(code)


if __name__ == "__main__":
    main()
