"""What the kernel knows of a process and its descendants: who they are, memory, CPU, cores."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core the proxy under test has to itself, and which serve the load and the stubs."""

    proxy: int
    load: frozenset[int]


def split_cores(allowed: set[int]) -> Cores:
    """The last core for the proxy, the others for the load; with one core alone they share it."""
    proxy = max(allowed)
    return Cores(proxy, frozenset(allowed - {proxy} or {proxy}))


def parent_of(stat: str) -> int:
    """The parent's pid in the text of /proc/PID/stat; the command's name there may hold blanks, brackets."""
    return int(stat.rpartition(")")[2].split()[1])


def tree(pid: int) -> list[int]:
    """`pid` and its live descendants. Raises ProcessLookupError when the process itself is gone."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent_of(stat), []).append(int(entry.name))
    if not (_PROC / str(pid)).exists():
        raise ProcessLookupError(pid)
    found = [pid]
    for member in found:
        found.extend(children.get(member, ()))
    return found


def rss_of(rollup: str) -> int:
    """Resident bytes in the text of /proc/PID/smaps_rollup."""
    for line in rollup.splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise ValueError("no Rss line in smaps_rollup")


def tree_rss_bytes(pid: int) -> int:
    """Resident memory of `pid` and its descendants; pages that they share are counted for each."""
    return sum(rss_of((_PROC / str(member) / "smaps_rollup").read_text()) for member in tree(pid))


def process_cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process, those that have ended included.

    It is the sum that the scheduler keeps for /proc/PID/task/*/schedstat, read through the process's
    CPU clock, which does not lose what an ended thread has used.
    """
    return time.clock_gettime_ns((~pid << 3) | 2)  # the kernel's own encoding: clock_getcpuclockid(3)


def raise_file_limit() -> None:
    """Let this process, and those that it starts, open as many files as the hard limit allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def use_cores(cores: frozenset[int]) -> None:
    """Keep this process, and those that it starts, on `cores`."""
    os.sched_setaffinity(0, cores)
