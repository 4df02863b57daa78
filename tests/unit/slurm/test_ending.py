"""Why a node's part ends."""

from __future__ import annotations

import asyncio
import os
import signal

from deploy.slurm.job.ending import Ending

LIMIT_S = 10.0


async def test_the_first_reason_counts() -> None:
    ending = Ending()
    ending.because(3, "first")
    ending.because(4, "second")
    assert (ending.code, ending.reason, ending.decided) == (3, "first", True)


async def test_it_ends_when_the_other_end_of_its_line_is_let_go_and_not_before() -> None:
    ending = Ending()
    here, there = os.pipe()
    ending.on_closed(here)
    os.write(there, b"still here\n")
    await asyncio.sleep(0)
    assert not ending.decided
    os.close(there)
    async with asyncio.timeout(LIMIT_S):
        await ending.wait()
    assert (ending.code, ending.reason) == (1, "the job's step on this node is gone")
    os.close(here)


async def test_a_sigterm_ends_it_with_143() -> None:
    ending = Ending()
    ending.on_signals()
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(LIMIT_S):
        await ending.wait()
    assert ending.code == 143
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().remove_signal_handler(number)
