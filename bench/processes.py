"""Starting, awaiting and ending the stub, the load generator and the proxies under test."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.build import LOADGEN, PEER_PYTHON, STUB
from bench.scenarios import Scenario

READY_WITHIN_S = 60.0
END_WITHIN_S = 10.0
PROBE = b'{"text": "ready?", "sampling_params": {"max_new_tokens": 1}}'

COMMANDS: dict[str, list[str]] = {
    "ours": [str(Path(sys.executable).with_name("pd-proxy"))],
    "theirs": [str(PEER_PYTHON), "-m", "sglang_router.launch_router"],
    "mini_lb": [str(PEER_PYTHON), "-m", "sglang_router.launch_router", "--mini-lb"],
}
"""How each proxy is started; the same flags follow."""


class Failed(Exception):
    """The measurement could not be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Backends:
    """Where the engines behind a proxy listen, all on loopback."""

    prefills: tuple[tuple[int, int], ...]
    """Each the port of its HTTP server and that of its bootstrap server."""
    decodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stub:
    """The two stub engines, one process."""

    process: subprocess.Popen[str]
    prefill_port: int
    decode_port: int

    @property
    def backends(self) -> Backends:
        """As a proxy is told of them."""
        return Backends(((self.prefill_port, 8998),), (self.decode_port,))

    def release(self) -> None:
        """Let resting streams go on."""
        self.process.send_signal(signal.SIGUSR1)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that has answered a request."""

    name: str
    pid: int
    port: int


@contextmanager
def stub(scenario: Scenario) -> Iterator[Stub]:
    """Stub engines for a scenario."""
    command = [str(STUB), "--tokens", str(scenario.tokens), "--hold-after", str(scenario.hold_after)]
    command += ["--interval-us", str(round(scenario.interval_ms * 1000))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ports = json.loads(process.stdout.readline())
            yield Stub(process, ports["prefill"], ports["decode"])
        finally:
            process.kill()


@contextmanager
def proxy(name: str, engines: Backends, core: int | None = None) -> Iterator[Proxy]:
    """The proxy `name`, pinned to `core` if one is given, in front of the engines, ready."""
    port, metrics_port = _free_ports(2)
    command = ["taskset", "-c", str(core)] if core is not None else []
    command += [*COMMANDS[name], "--pd-disaggregation", "--policy", "round_robin"]
    for prefill, bootstrap in engines.prefills:
        command += ["--prefill", f"http://127.0.0.1:{prefill}", str(bootstrap)]
    for decode in engines.decodes:
        command += ["--decode", f"http://127.0.0.1:{decode}"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(metrics_port)]
    command += ["--log-level", "error"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            _await_answer(name, process, port, log.fileno())
            yield Proxy(name, process.pid, port)
        finally:
            _end(process)


def load_command(scenario: Scenario, request_file: Path, port: int, pids: Sequence[int]) -> list[str]:
    """The load generator's command line for a scenario."""
    command = [str(LOADGEN), "--port", str(port), "--request", str(request_file)]
    command += ["--connections", str(scenario.connections), "--ramp-ms", str(scenario.ramp_ms)]
    command += ["--seconds", str(scenario.window_s), "--limit-s", str(scenario.limit_s())]
    if scenario.is_stream:
        command += ["--streams", str(scenario.tokens), "--open-after", str(max(scenario.hold_after, 1))]
    if pids:
        command += ["--cpu-of", ",".join(map(str, pids))]
    return command


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _await_answer(name: str, process: subprocess.Popen[bytes], port: int, log_fd: int) -> None:
    """Wait until the proxy really serves: a request through both stubs gives 200."""
    deadline = time.monotonic() + READY_WITHIN_S
    last = "nothing"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failed(f"{name} ended with code {process.returncode} at its start:\n{_tail(log_fd)}")
        try:
            last = _status(port)
        except (OSError, http.client.HTTPException) as error:
            last = repr(error)
        if last == "200":
            return
        time.sleep(0.1)
    raise Failed(f"{name} is not ready after {READY_WITHIN_S:.0f} s, last answer: {last}\n{_tail(log_fd)}")


def _status(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST", "/generate", PROBE, {"Content-Type": "application/json"})
        return str(connection.getresponse().status)
    finally:
        connection.close()


def _tail(log_fd: int) -> str:
    size = os.fstat(log_fd).st_size
    return os.pread(log_fd, 4000, max(0, size - 4000)).decode(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the proxy and whatever it started: nothing may disturb the next measurement."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_WITHIN_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
