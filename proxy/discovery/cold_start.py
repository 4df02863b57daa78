"""The cold start: keeps a snapshot of the view on disk, and begins from it when etcd does not answer."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import structlog

from proxy.clock import Clock
from proxy.discovery.snapshot import SnapshotFile
from proxy.discovery.view import View
from proxy.roster import Change

log = structlog.get_logger(__name__)

_SAVE_EVERY_S = 5.0
_ALONE_AFTER_S = 2.0
"""How long a start waits for etcd before it takes the snapshot; a refusal ends the wait."""


class ColdStart:
    """The watcher's memory over restarts. The disk is waited for in threads."""

    def __init__(self, file: SnapshotFile, view: View, clock: Clock) -> None:
        self._file = file
        self._view = view
        self._clock = clock
        self._saved_version = view.version
        self._saved_at_s = -math.inf

    async def begin(
        self, heard: asyncio.Event, report: Callable[[Sequence[Change]], Awaitable[None]]
    ) -> None:
        """Report last time's workers, unless etcd tells of this time's within 2 s.

        Args:
            heard: etcd has answered, or has failed.
            report: hands changes on, and lets others have their turn.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_ALONE_AFTER_S):
                await heard.wait()
        if self._view.listed:
            return
        try:
            for changes in self._view.seed(await asyncio.to_thread(self._file.load)):
                await report(changes)
        except Exception:
            log.exception("registry: a bug; starting without the snapshot")

    async def save(self) -> None:
        """Write the view down, if it is another than the last time, and that was 5 s ago."""
        now_s, version = self._clock.monotonic(), self._view.version
        if (
            not self._view.listed
            or version == self._saved_version
            or now_s - self._saved_at_s < _SAVE_EVERY_S
        ):
            return
        self._saved_at_s, self._saved_version = now_s, version
        try:
            await asyncio.to_thread(self._file.save, tuple(self._view.records))
        except (OSError, ValueError) as error:
            log.warning("snapshot: not written; a cold start would use the one before", error=str(error))
