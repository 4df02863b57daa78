"""The worker in the registry: one registration for each life of the engine, gone at once when it dies."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import replace

import structlog

from proxy.clock import Clock, Sleep
from proxy.discovery.etcd import Etcd
from proxy.discovery.record import Keys
from proxy.roster import State, Worker
from workers.registration import Registration

log = structlog.get_logger("pd-worker")

_TELL_S = 5.0
"""why: an etcd that is away must hold up neither a drain nor a restart; the lease ends by itself."""


class Announcer:
    """Owns the registration. Without an etcd it announces nothing, and all else is the same."""

    def __init__(
        self,
        etcd: Etcd | None,
        keys: Keys,
        tasks: asyncio.TaskGroup,
        *,
        ttl_s: int,
        on_wish: Callable[[bool], None],
        clock: Clock,
        sleep: Sleep,
        rng: random.Random,
    ) -> None:
        """Make one.

        Args:
            etcd: stays the caller's to close; None where there is no registry.
            keys: the keys under the registry's root.
            tasks: the parent of the task that keeps the registration.
            ttl_s: how long the key outlives this process.
            on_wish: told when an operator wishes the worker to drain.
            clock: time.
            sleep: waiting.
            rng: chance, for jitter.
        """
        self._etcd = etcd
        self._keys = keys
        self._tasks = tasks
        self._ttl_s = ttl_s
        self._on_wish = on_wish
        self._clock = clock
        self._sleep = sleep
        self._rng = rng
        self._worker: Worker | None = None
        self._registration: Registration | None = None
        self._keeping: asyncio.Task[None] | None = None

    @property
    def enabled(self) -> bool:
        """Whether there is a registry."""
        return self._etcd is not None

    @property
    def registered(self) -> bool:
        """Whether the key stands, as far as is known."""
        return self._registration is not None and self._registration.registered

    @property
    def lease_age_s(self) -> float:
        """Seconds since etcd last confirmed the lease; infinite where there is none."""
        return math.inf if self._registration is None else self._registration.lease_age_s

    def announce(self, worker: Worker) -> None:
        """Registers a new life, and keeps it registered until `withdraw`."""
        self._worker = worker
        if self._etcd is None:
            return
        self._registration = Registration(
            self._etcd,
            self._keys,
            worker,
            clock=self._clock,
            sleep=self._sleep,
            rng=self._rng,
            ttl_s=self._ttl_s,
            on_wish=self._on_wish,
        )
        self._keeping = self._tasks.create_task(self._registration.run(), name="registration")

    async def draining(self) -> None:
        """Says that no new requests are wanted; tries for at most a few seconds, then goes on saying it."""
        if self._registration is None or self._worker is None:
            return
        try:
            async with asyncio.timeout(_TELL_S):
                await self._registration.update(replace(self._worker, state=State.DRAINING))
        except TimeoutError:
            log.warning("registry: not told of the draining; the proxies will see it by their probes")

    async def withdraw(self) -> None:
        """Takes the key away; if etcd does not answer within a few seconds, its lease ends by itself."""
        registration, self._registration, self._worker = self._registration, None, None
        if registration is not None:
            try:
                async with asyncio.timeout(_TELL_S):
                    await registration.withdraw()
            except TimeoutError:
                log.warning("registry: not withdrawn in time", gone_within_s=self._ttl_s)
        if self._keeping is not None:
            self._keeping.cancel()
            self._keeping = None
