"""The cluster of cluster.sh for tests: commands on its controller and nodes, jobs and what they left."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "deploy" / "slurm" / "run_xPyD_models.slurm"
_NEEDED = ("sbatch", "munged", "unshare", "nsenter", "ip")
_START_S = 60
_COMMAND_S = 60
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY")


def why_not() -> str:
    """Why there can be no cluster on this machine; empty: there can."""
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)}: apt-get install --no-install-recommends slurm-wlm munge iproute2"
    if os.geteuid() != 0:
        return "network namespaces need root"
    done = subprocess.run(["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "true"], check=False)
    return "this machine allows no namespaces" if done.returncode else ""


class Cluster:
    """A running cluster."""

    def __init__(self, folder: Path, pid: int) -> None:
        self._folder = folder
        self._enter = ["nsenter", f"--target={pid}", "--net", "--mount", "--uts", "--pid", "--"]
        self._environ = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self._removed: list[int] = []

    def run(
        self, *command: str, check: bool = True, environ: Mapping[str, str] | None = None, cwd: Path = ROOT
    ) -> str:
        """Runs a command on the controller; its stdout."""
        done = subprocess.run(
            [*self._enter, "env", f"--chdir={cwd}", *command],
            env={**self._environ, **(environ or {})},
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{command}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def on(self, node: int, *command: str, check: bool = True) -> str:
        """Runs a command on a node; its stdout."""
        pid = (self._folder / f"node.{node}").read_text().strip()
        return self.run(
            "nsenter", f"--target={pid}", "--net", "--mount", "--uts", "--", *command, check=check
        )

    def cut_off(self, node: int) -> None:
        """Takes the node's network away."""
        self.run("ip", "link", "set", f"v{node}", "down")
        self._removed.append(node)

    @contextmanager
    def background(self, node: int, *command: str) -> Iterator[subprocess.Popen[str]]:
        """Runs a command on a node for as long as the block lasts."""
        pid = (self._folder / f"node.{node}").read_text().strip()
        enter = [*self._enter, "nsenter", f"--target={pid}", "--net", "--mount", "--uts", "--"]
        with subprocess.Popen(
            [*enter, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as running:
            yield running  # closing its stdin ends it

    def command_of(self, pid: int) -> str:
        """A process's command line; empty: it has gone."""
        return self.run("bash", "-c", 'tr "\\0" " " <"/proc/$0/cmdline"', str(pid), check=False)

    def mend_network(self) -> None:
        """Gives every node its network back."""
        for node in self._removed:
            self.run("ip", "link", "set", f"v{node}", "up")
        self._removed.clear()

    def mend(self) -> None:
        """The same, and waits until Slurm has all nodes again."""
        self.mend_network()
        deadline_s = time.monotonic() + _START_S
        while set(self.run("sinfo", "--noheader", "--format=%T").split()) != {"idle"}:
            assert time.monotonic() < deadline_s, self.run("sinfo", "--long", "--Node")
            self.run("scontrol", "update", "NodeName=ALL", "State=RESUME", check=False)
            time.sleep(0.5)

    def processes(self, node: int) -> list[str]:
        """The command lines of everything that runs on a node, but for its slurmd and this question."""
        script = (
            "own=$(readlink /proc/self/ns/net); for one in /proc/[0-9]*; do"
            ' [[ $(readlink "$one/ns/net") == "$own" ]] && tr "\\0" " " <"$one/cmdline" && echo; done; true'
        )
        found = self.on(node, "bash", "-c", script).splitlines()
        return [line.strip() for line in found if line.strip() and not _expected(line)]

    def pids(self, node: int, words: str) -> list[int]:
        """Of the processes on a node whose command line has the words."""
        script = (
            "own=$(readlink /proc/self/ns/net); for one in /proc/[0-9]*; do"
            ' [[ $(readlink "$one/ns/net") == "$own" ]] && tr "\\0" " " <"$one/cmdline" | grep -q -e "$1"'
            ' && echo "${one##*/}"; done; true'
        )
        mine = self.on(node, "bash", "-c", f"{script}; echo $$", "-", words).split()
        return [int(pid) for pid in mine[:-1] if pid != mine[-1]]


def _expected(line: str) -> bool:
    return line.startswith(("slurmd -D", "slurmstepd: [", "bash -c own=", "tr "))


@contextmanager
def cluster(folder: Path, nodes: int) -> Iterator[Cluster]:
    """A cluster for as long as the block lasts; skips the test where there can be none."""
    reason = why_not()
    if reason:
        (pytest.fail if os.environ.get("CI_STRICT") == "1" else pytest.skip)(f"no Slurm here: {reason}")
    command = [str(Path(__file__).with_name("cluster.sh")), str(folder), str(nodes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            said = process.stdout.readline()
            assert said == "ready\n", said + process.stdout.read()
            (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            yield Cluster(folder, int(child))
        finally:
            process.kill()


class Job:
    """One run of the batch script."""

    def __init__(self, owner: Cluster, number: str, folder: Path) -> None:
        self._cluster = owner
        self.number = number
        self.logs = folder / "run_logs" / number
        self.output = folder / f"slurm-{number}.out"

    @property
    def state(self) -> str:
        """Slurm's word for it."""
        return self._field("JobState")

    @property
    def exit_code(self) -> int:
        """Of the batch script."""
        return int(self._field("ExitCode").partition(":")[0])

    @property
    def said(self) -> str:
        """Its output so far."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def log(self, name: str) -> str:
        """One of its logs, empty where there is none."""
        path = self.logs / name
        return path.read_text(errors="replace") if path.exists() else ""

    async def says(self, text: str, limit_s: float) -> None:
        """Waits for words in its output."""
        deadline_s = time.monotonic() + limit_s
        while not re.search(text, self.said):
            assert self.state not in OVER, self.told()
            assert time.monotonic() < deadline_s, f"not within {limit_s} s: {text}\n{self.told()}"
            await asyncio.sleep(0.3)

    async def ends(self, limit_s: float) -> None:
        """Waits for its end."""
        deadline_s = time.monotonic() + limit_s
        while self.state not in OVER:
            assert time.monotonic() < deadline_s, f"not over within {limit_s} s\n{self.told()}"
            await asyncio.sleep(0.3)

    def cancel(self) -> None:
        """scancel."""
        self._cluster.run("scancel", self.number, check=False)

    def told(self) -> str:
        """All that one wants to see of a job that went wrong."""
        logs = "".join(
            f"\n--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted(self.logs.glob("*.log"))
        )
        return f"job {self.number}: {self.state}\n{self.said[-6000:]}{logs}"

    def _field(self, name: str) -> str:
        told = self._cluster.run("scontrol", "show", "job", self.number)
        found = re.search(rf"\b{name}=(\S+)", told)
        assert found, told
        return found[1]


def submit(owner: Cluster, folder: Path, nodes: int, environ: Mapping[str, str]) -> Job:
    """sbatch, as the recipe's users write it."""
    said = owner.run(
        *("sbatch", "--parsable", "-N", str(nodes), "-n", str(nodes), str(SCRIPT)),
        environ=environ,
        cwd=folder,
    )
    return Job(owner, said.strip(), folder)
