"""Real SGLang servers under real pd-workers, a real etcd and the proxy: slow to start, so started once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.etcd import Etcd, etcd_members, free_ports

PROJECT = Path(__file__).resolve().parents[2]
ON_CPU = Path(__file__).resolve().parent / "on_cpu"
START_S = 400.0
"""why: 35 s a server on an idle machine; three at once on two busy cores were seen to take 120 s."""
_FLAGS = [
    "--device", "cpu", "--attention-backend", "torch_native", "--disable-overlap-schedule",
    "--disable-cuda-graph", "--grammar-backend", "none", "--mem-fraction-static", "0.1",
    "--max-total-tokens", "16384", "--max-running-requests", "64", "--context-length", "2048",
    "--enable-metrics",
]  # fmt: skip


def installed() -> Path:
    """The folder that install.sh has filled.

    Raises:
        Skipped: there is none.
    """
    root = os.environ.get("PD_REAL_SGLANG")
    if not root:
        pytest.skip("no real SGLang: make test-sglang installs it and sets PD_REAL_SGLANG")
    return Path(root).resolve()


@dataclass
class RealWorker:
    """One pd-worker process."""

    role: str
    port: int
    process: subprocess.Popen[bytes]
    console: Path
    log: Path
    url: str = field(init=False)

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self.port}"

    def said(self) -> str:
        """Its console so far."""
        return self.console.read_text(errors="replace")

    def wait_ready(self, times: int = 1) -> None:
        """Waits for the ready line of its so-manieth life."""
        deadline_s = time.monotonic() + START_S
        while self.said().count("pd-worker ready ") < times:
            assert self.process.poll() is None, self.said()[-4000:]
            assert time.monotonic() < deadline_s, self.said()[-4000:]
            time.sleep(0.2)

    @property
    def engine_pid(self) -> int:
        """Of the engine's last life."""
        return int(re.findall(r"engine: launched pid=(\d+)", self.said())[-1])

    def kill_engine(self) -> None:
        """SIGKILL to SGLang's first process."""
        os.kill(self.engine_pid, signal.SIGKILL)

    def terminate(self) -> int:
        """SIGTERM to pd-worker; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


@dataclass
class Fleet:
    """A plain server as the oracle, and a fleet behind a proxy."""

    root: Path
    folder: Path
    etcd: Etcd
    stack: ExitStack
    plain: RealWorker = field(init=False)
    prefill: RealWorker = field(init=False)
    decodes: list[RealWorker] = field(init=False)
    proxy: str = field(init=False)

    def worker(self, role: str, *, registered: bool = True) -> RealWorker:
        """Starts a worker, and does not wait for it."""
        port, bootstrap = free_ports(2)
        libraries = [self.root / "sysroot" / at / "x86_64-linux-gnu" for at in ("usr/lib", "lib")]
        env = {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            "PYTHONPATH": str(ON_CPU),
            "OMP_NUM_THREADS": "1",
            "SGLANG_USE_CPU_ENGINE": "1",
            "MC_FORCE_TCP": "1",
            "HF_HUB_OFFLINE": "1",
            "no_proxy": "*",
        }
        logs = self.folder / f"{role}-{port}"
        logs.mkdir()
        more = ["--etcd-endpoints", self.etcd.url] if registered else []
        more += ["--bootstrap-port", str(bootstrap)] if role == "prefill" else []
        backup = ["--disaggregation-decode-retraction-backup", "cpu_tensor"] if role == "decode" else []
        command = [
            sys.executable, "-m", "workers", "--engine", "sglang", "--role", role,
            "--engine-python", str(self.root / "venv" / "bin" / "python"), "--engine-module", "sglang_on_cpu",
            "--model", str(self.root / "model"), "--served-model-name", "tiny",
            "--host", "127.0.0.1", "--advertise-host", "127.0.0.1", "--allow-tcp", "--port", str(port),
            "--log-dir", str(logs), "--load-interval-s", "1", "--crash-limit", "20", *more,
            "--", *_FLAGS, *backup,
        ]  # fmt: skip
        console = logs / "console"
        with console.open("wb") as output:
            # The worker runs in the project's folder, so that the engine's PYTHONPATH does not shadow it.
            process = subprocess.Popen(command, cwd=PROJECT, env=env, stdout=output, stderr=output)
        self.stack.callback(_end, process)
        return RealWorker(role, port, process, console, logs / f"{role}_NODE0.log")

    def start_proxy(self) -> None:
        """On a port of its own, with every worker from etcd."""
        (port,) = free_ports(1)
        log = (self.folder / "proxy.log").open("wb")
        self.stack.callback(log.close)
        command = [sys.executable, "-m", "proxy", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--etcd", self.etcd.url]
        process = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log)
        self.stack.callback(_end, process)
        self.proxy = f"http://127.0.0.1:{port}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends it; a killed pd-worker takes its engine with it."""
    process.kill()
    process.wait(30)


@contextmanager
def start_fleet(folder: Path) -> Iterator[Fleet]:
    """1 prefill, 2 decodes, 1 plain server and the proxy, all ready."""
    root = installed()
    with ExitStack() as stack:
        (etcd,) = stack.enter_context(etcd_members(1))
        fleet = Fleet(root, folder, etcd, stack)
        fleet.plain = fleet.worker("regular", registered=False)
        fleet.prefill = fleet.worker("prefill")
        fleet.decodes = [fleet.worker("decode") for _ in range(2)]
        fleet.start_proxy()
        for worker in (fleet.plain, fleet.prefill, *fleet.decodes):
            worker.wait_ready()
        yield fleet
