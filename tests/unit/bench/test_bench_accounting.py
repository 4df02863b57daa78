from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from bench import accounting

SMAPS_ROLLUP = """\
5581ee3f4000-7ffd43bfe000 ---p 00000000 00:00 0                          [rollup]
Rss:                1884 kB
Pss:                 600 kB
"""


def test_the_proxy_gets_a_core_of_its_own() -> None:
    cores = accounting.split_cores({0, 1, 2})
    assert cores.proxy == 2
    assert cores.load == {0, 1}


def test_a_single_core_is_shared() -> None:
    assert accounting.split_cores({3}) == accounting.Cores(3, frozenset({3}))


def test_a_name_with_brackets_and_blanks_does_not_hide_the_parent() -> None:
    assert accounting.parent_of("12 (a ) b (c) S 7 12 12 0 -1") == 7


def test_resident_memory_is_read_in_bytes() -> None:
    assert accounting.rss_of(SMAPS_ROLLUP) == 1884 * 1024


def test_a_grandchild_belongs_to_the_tree() -> None:
    with subprocess.Popen(
        ["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, text=True
    ) as shell:
        assert shell.stdout is not None
        grandchild = int(shell.stdout.readline())
        try:
            assert set(accounting.tree(os.getpid())) >= {os.getpid(), shell.pid, grandchild}
            assert accounting.tree(shell.pid) == [shell.pid, grandchild]
        finally:
            os.kill(grandchild, 9)


def test_a_process_that_is_gone_has_no_tree() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(ProcessLookupError):
        accounting.tree(process.pid)


def test_memory_of_the_tree_counts_the_child() -> None:
    alone = accounting.tree_rss_bytes(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", "print('up', flush=True); input()"], stdin=-1, stdout=-1
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        assert accounting.tree_rss_bytes(os.getpid()) > alone + 1_000_000
        child.stdin.close()


def _burn(cpu_s: float) -> None:
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        pass


def test_cpu_of_an_ended_thread_is_kept() -> None:
    before_ns = accounting.process_cpu_ns(os.getpid())
    thread = threading.Thread(target=_burn, args=(0.05,))
    thread.start()
    thread.join()
    assert accounting.process_cpu_ns(os.getpid()) - before_ns >= 0.05e9
