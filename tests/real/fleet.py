"""Real SGLang servers under real pd-workers, a real etcd and the proxy: slow to start, so started once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.etcd import Etcd, etcd_members, free_ports

PROJECT = Path(__file__).resolve().parents[2]
ON_CPU = Path(__file__).resolve().parent / "on_cpu"
START_S = 400.0
"""why: 30 s a server on an idle machine; five at once on two busy cores were seen to take 150 s."""
_FLAGS = [
    "--device", "cpu", "--dtype", "float32", "--attention-backend", "torch_native",
    "--disable-overlap-schedule", "--disable-cuda-graph", "--grammar-backend", "none",
    "--mem-fraction-static", "0.1", "--max-total-tokens", "16384", "--max-running-requests", "64",
    "--context-length", "2048", "--enable-metrics", "--sleep-on-idle",
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


def sglang_environment(root: Path) -> dict[str, str]:
    """What an installation of SGLang needs to run on a CPU."""
    libraries = [root / "sysroot" / at / "x86_64-linux-gnu" for at in ("usr/lib", "lib")]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "PYTHONPATH": str(ON_CPU),
        "OMP_NUM_THREADS": "1",
        "SGLANG_USE_CPU_ENGINE": "1",
        "MC_FORCE_TCP": "1",
        "HF_HUB_OFFLINE": "1",
        "no_proxy": "*",
    }


@dataclass
class RealWorker:
    """One pd-worker process."""

    role: str
    port: int
    bootstrap_port: int
    process: subprocess.Popen[bytes]
    console: Path
    url: str = field(init=False)

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self.port}"

    def said(self) -> str:
        """Its console so far."""
        return self.console.read_text(errors="replace")

    @property
    def lives(self) -> int:
        """How often it has launched its engine."""
        return self.said().count("engine: launched")

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

    def freeze(self) -> None:
        """Its scheduler stands still: it takes requests and does nothing with them."""
        self._signal_scheduler(signal.SIGSTOP)

    def thaw(self) -> None:
        """Its scheduler goes on, if there still is one."""
        self._signal_scheduler(signal.SIGCONT)

    def _signal_scheduler(self, number: signal.Signals) -> None:
        listing = ["ps", "-o", "pid=,args=", "--ppid", str(self.engine_pid)]
        children = subprocess.run(listing, capture_output=True, text=True).stdout.splitlines()
        for line in children:
            if "sglang::scheduler" in line:
                os.kill(int(line.split()[0]), number)

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
    prefills: list[RealWorker] = field(init=False)
    decodes: list[RealWorker] = field(init=False)
    proxy: str = field(init=False)

    @property
    def python(self) -> Path:
        """The interpreter that has SGLang."""
        return self.root / "venv" / "bin" / "python"

    @property
    def model(self) -> Path:
        """The model's folder."""
        return self.folder / "model"

    def environment(self) -> dict[str, str]:
        """What SGLang needs to run here."""
        return sglang_environment(self.root)

    def worker(
        self,
        role: str,
        *,
        like: RealWorker | None = None,
        env: Mapping[str, str] | None = None,
        flags: Sequence[str] = (),
    ) -> RealWorker:
        """Starts a worker, and does not wait for it.

        Args:
            role: prefill or decode, which register, or regular, which does not.
            like: one that has ended, whose ports it takes.
            env: more for its environment.
            flags: more for SGLang.
        """
        port, bootstrap = (like.port, like.bootstrap_port) if like else free_ports(2)
        logs = self.folder / f"{role}-{port}-{time.monotonic_ns()}"
        logs.mkdir()
        more = [] if role == "regular" else ["--etcd-endpoints", self.etcd.url]
        more += ["--bootstrap-port", str(bootstrap)] if role == "prefill" else []
        backup = ["--disaggregation-decode-retraction-backup", "cpu_tensor"] if role == "decode" else []
        command = [
            sys.executable, "-m", "workers", "--engine", "sglang", "--role", role,
            "--engine-python", str(self.python), "--engine-module", "sglang_on_cpu",
            "--model", str(self.model), "--served-model-name", "tiny",
            "--host", "127.0.0.1", "--advertise-host", "127.0.0.1", "--allow-tcp", "--port", str(port),
            "--log-dir", str(logs), "--load-interval-s", "1", "--crash-limit", "20", *more,
            "--", *_FLAGS, *backup, *flags,
        ]  # fmt: skip
        console = logs / "console"
        with console.open("wb") as output:
            # The worker runs in the project's folder, so that the engine's PYTHONPATH does not shadow it.
            process = subprocess.Popen(
                command, cwd=PROJECT, env=self.environment() | dict(env or {}), stdout=output, stderr=output
            )
        self.stack.callback(_end, process)
        return RealWorker(role, port, bootstrap, process, console)

    @contextmanager
    def another_proxy(
        self, prefills: list[tuple[str, int]], decodes: list[RealWorker], *flags: str
    ) -> Iterator[str]:
        """A proxy that knows these workers only: prefills by their URLs and bootstrap ports."""
        words = [word for url, port in prefills for word in ("--prefill", url, str(port))]
        words += [word for decode in decodes for word in ("--decode", decode.url)]
        with self._proxy([*words, *flags]) as url:
            yield url

    @contextmanager
    def _proxy(self, words: list[str]) -> Iterator[str]:
        (port,) = free_ports(1)
        # Workers that come one after the other share evenly at once: tests count on either's having work.
        evenly = ["--routing-slow-start-s", "0"]
        command = [sys.executable, "-m", "proxy", "--host", "127.0.0.1", "--port", str(port), *evenly, *words]
        with (self.folder / f"proxy-{port}.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log)
            try:
                yield f"http://127.0.0.1:{port}"
            finally:
                _end(process)

    def make_model(self) -> None:
        """Writes the model: made anew each time, it is the one that the tests were written for."""
        maker = [str(self.python), str(PROJECT / "tests" / "real" / "tiny_model.py"), str(self.model)]
        subprocess.run(maker, check=True, timeout=START_S)

    def run_python(self, program: str) -> str:
        """What a program prints that may import SGLang."""
        command = [str(self.python), "-W", "ignore", "-c", "import sglang_on_cpu\n" + program]
        found = subprocess.run(
            command, env=self.environment(), capture_output=True, text=True, check=True, timeout=START_S
        )
        return found.stdout

    def start(self) -> None:
        """All of it; returns when all are ready."""
        self.make_model()
        self.plain = self.worker("regular")
        self.prefills = [self.worker("prefill") for _ in range(2)]
        self.decodes = [self.worker("decode") for _ in range(2)]
        self.proxy = self.stack.enter_context(self._proxy(["--etcd", self.etcd.url]))
        for worker in (self.plain, *self.prefills, *self.decodes):
            worker.wait_ready()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends it; a killed pd-worker takes its engine with it."""
    process.kill()
    process.wait(30)


@contextmanager
def start_fleet(folder: Path) -> Iterator[Fleet]:
    """2 prefills, 2 decodes, 1 plain server and the proxy, all ready."""
    root = installed()
    with ExitStack() as stack:
        (etcd,) = stack.enter_context(etcd_members(1))
        fleet = Fleet(root, folder, etcd, stack)
        fleet.start()
        yield fleet
