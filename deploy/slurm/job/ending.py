"""Why this node's part ends: the first reason counts, whoever gave it."""

from __future__ import annotations

import asyncio
import os
import signal


class Ending:
    """Set once."""

    def __init__(self) -> None:
        self._set = asyncio.Event()
        self.code = 0
        self.reason = ""

    def because(self, code: int, reason: str) -> None:
        """Ends it; a later reason is none."""
        if not self._set.is_set():
            self.code, self.reason = code, reason
            self._set.set()

    @property
    def decided(self) -> bool:
        """Whether there is a reason."""
        return self._set.is_set()

    async def wait(self) -> None:
        """Until there is one."""
        await self._set.wait()

    def on_signals(self) -> None:
        """SIGTERM is Slurm's way to end a job: scancel, or its time is over."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(
                number, self.because, 128 + number, f"{number.name}: the job was ended from outside"
            )

    def on_closed(self, descriptor: int) -> None:
        """When the other end of a line is let go: the step that holds it is gone."""
        loop = asyncio.get_running_loop()

        def readable() -> None:
            if not _read(descriptor):
                loop.remove_reader(descriptor)
                self.because(1, "the job's step on this node is gone")

        loop.add_reader(descriptor, readable)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""
