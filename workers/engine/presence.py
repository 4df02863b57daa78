"""The engine in the registry: ready once it serves, draining before it goes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.clock import SystemClock, sleep
from proxy.discovery.etcd import Etcd, EtcdRules
from proxy.discovery.record import Keys
from proxy.roster import Worker
from workers.engine.server import Engine
from workers.registration import Registration

_POLL_S = 0.05


class Presence:
    """What `main` does with the registry."""

    def __init__(self, engine: Engine, registration: Registration) -> None:
        self._engine = engine
        self._registration = registration

    async def tell(self) -> None:
        """Says what the engine now is."""
        await self._registration.update(self._engine.worker)

    async def withdraw(self) -> None:
        """Takes the key away."""
        await self._registration.withdraw()

    async def follow(self) -> None:
        """Tells when the engine has become ready, then ends."""
        told: Worker = self._engine.worker
        while self._engine.loading:
            await sleep(_POLL_S)
        if self._engine.worker != told:
            await self.tell()


@asynccontextmanager
async def present(engine: Engine, rules: EtcdRules, root: str, ttl_s: int) -> AsyncIterator[Presence]:
    """Keeps `engine` registered for as long as the block lasts; withdrawing is the caller's."""
    async with Etcd(rules) as etcd, asyncio.TaskGroup() as tasks:
        registration = Registration(
            etcd,
            Keys(root),
            engine.worker,
            clock=SystemClock(),
            sleep=sleep,
            rng=random.Random(),
            ttl_s=ttl_s,
        )
        presence = Presence(engine, registration)
        keeping = [tasks.create_task(registration.run()), tasks.create_task(presence.follow())]
        try:
            yield presence
        finally:
            for task in keeping:
                task.cancel()
