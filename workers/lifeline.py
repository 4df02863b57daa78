"""Holds an engine on a line: when the other end is let go, every process of the engine is killed.

A script between pd-worker and the engine, run by path and with nothing but the standard library:

    python -I -S lifeline.py STATUS_FD ARGV...

Its stdin is the line. A byte on it is an order to the engine's whole process group: `i` SIGINT, `t` SIGTERM,
`k` kill every descendant. End of file means that pd-worker is gone, however it went (a SIGKILL of it closes
the pipe too), and is obeyed as `k`. The engine's pid is written to STATUS_FD, which is closed when the engine
itself has ended, before what it left behind is killed.

It is a subreaper: processes of the engine that lose their parent, or leave the group by setsid, stay its
descendants, so none escapes. Should this script itself be killed, the kernel kills the engine
(PR_SET_PDEATHSIG), and pd-worker what is left of its session. It ends as the engine ended: with its exit
code, or by its signal.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import sys
import time
from contextlib import suppress
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_GROUP_ORDERS = {ord("i"): signal.SIGINT, ord("t"): signal.SIGTERM}
_KILL = ord("k")
_LOOK_S = 0.01
_LOOKS = 3000
"""why: 30 s; a process inside a GPU driver may outlive SIGKILL, and nobody waits for it for ever."""
_INHERITED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD)


def main() -> NoReturn:
    """Runs the engine until it or the line ends."""
    status_fd, argv = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(status_fd, False)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    wake_r, wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    engine = _launch(argv, libc)
    os.write(status_fd, b"%d\n" % engine)
    ended = None
    line = [0]
    while ended is None:
        ready = select.select([*line, wake_r], [], [])[0]
        if wake_r in ready:
            os.read(wake_r, 4096)
        if 0 in ready:
            orders = os.read(0, 64)
            for order in orders or bytes([_KILL]):
                _obey(order, engine)
            if not orders:
                line = []
        ended = _reap(engine)
    os.close(status_fd)
    _kill_descendants()
    _end_as(ended)


def _launch(argv: list[str], libc: ctypes.CDLL) -> int:
    """The engine's pid, once it leads a session of its own and runs its own program."""
    me = os.getpid()
    started_r, started_w = os.pipe()  # closed by exec, or with a child that could not
    pid = os.fork()
    if pid:
        os.close(started_w)
        os.read(started_r, 1)
        os.close(started_r)
        return pid
    try:
        os.setsid()
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != me:  # gone before the kernel was told
            os._exit(1)
        for number in _INHERITED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.execvp(argv[0], argv)
    except OSError as error:
        os.write(2, f"pd-worker: cannot run {argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _obey(order: int, engine: int) -> None:
    """The engine is not reaped yet, so its pid and group are still its own."""
    if order == _KILL:
        for pid in _descendants():
            _signal(pid, signal.SIGKILL)
    elif order in _GROUP_ORDERS:
        with suppress(ProcessLookupError):
            os.killpg(engine, _GROUP_ORDERS[order])


def _reap(engine: int) -> int | None:
    """Collects who has ended; the engine's wait status, once it is among them."""
    ended = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        if pid == engine:
            ended = status


def _kill_descendants() -> None:
    left = _descendants()
    for _ in range(_LOOKS):
        if not left:
            return
        for pid in left:
            _signal(pid, signal.SIGKILL)
        time.sleep(_LOOK_S)
        _reap(0)
        left = _descendants()
    os.write(2, f"pd-worker: processes that SIGKILL does not end: {left}\n".encode())


def _descendants() -> list[int]:
    """Every process below this one, the ended but not yet reaped ones included."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            continue  # it has gone meanwhile
        children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    wave = children.get(os.getpid(), [])
    while wave:
        found += wave
        wave = [child for pid in wave for child in children.get(pid, [])]
    return found


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _end_as(status: int) -> NoReturn:
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the engine's core, if any, is the one that tells
        signal.set_wakeup_fd(-1)
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


if __name__ == "__main__":
    main()
