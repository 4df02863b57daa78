"""Registration: keeps one worker's key in etcd for as long as the worker lives, through all that can happen.

Level-triggered: every turn makes etcd say what should be said, whatever it said before. A turn is at most
four calls, each with a deadline; etcd's failures never end it.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from typing import Any

import structlog

from proxy.clock import Clock, Sleep
from proxy.discovery import record
from proxy.discovery.etcd import Etcd
from proxy.discovery.record import Keys
from proxy.discovery.wire import KeyValue, TxnAnswer
from proxy.errors import RegistryError
from proxy.roster import Worker

log = structlog.get_logger(__name__)

_BACKOFF_S = (0.1, 3.0)
_SPREAD_S = 1.0
"""A lost lease is seldom one worker's: a thousand do not come back in the same instant."""
_TRIES = 5
"""why: a compare fails only when another writer came in between, and a key has one writer, seldom two."""


class Superseded(RegistryError):
    """Another process has taken the worker's key over; it is left alone until it goes."""


class Registration:
    """One worker's key, under a lease of its own.

    `run` keeps it; `update` changes what it says; `withdraw` takes it away. All may be called at any time.
    Never a plain put: a key that is there is ours (same instance), or is taken over by comparing its
    revision. Who was taken over stands back, so that two processes under one id do not fight.
    """

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        worker: Worker,
        *,
        clock: Clock,
        sleep: Sleep,
        rng: random.Random,
        ttl_s: int = 15,
        on_wish: Callable[[bool], None] | None = None,
    ) -> None:
        """Make one.

        Args:
            etcd: the client; stays the caller's to close.
            keys: the keys under the registry's root.
            worker: what to say; its `instance` must be set, and be of this process.
            clock: time.
            sleep: waiting.
            rng: chance, for jitter.
            ttl_s: how long the key outlives us; renewed every third of it.
            on_wish: told, when it changes, whether an operator wishes this worker to drain.

        Raises:
            ValueError: the worker has no instance.
        """
        if worker.instance is None:
            raise ValueError(f"worker {worker.worker_id} has no instance: give it a uuid of this process")
        self._etcd = etcd
        self._worker = worker
        self._key = keys.worker(worker).encode()
        self._wish_key = keys.wish(worker.worker_id).encode()
        self._clock = clock
        self._sleep = sleep
        self._rng = rng
        self._ttl_s = ttl_s
        self._on_wish = on_wish
        self._turn = asyncio.Lock()  # one writer at a time, or an old value could land after a new one
        self._lease = 0
        self._renewed_at_s = -math.inf
        self._stands = False
        self._held_once = False
        self._wished = False
        self._withdrawn = False

    @property
    def registered(self) -> bool:
        """Does the key stand, as far as we know: written, and its lease not run out?"""
        return self._stands and self.lease_age_s < self._ttl_s

    @property
    def lease_age_s(self) -> float:
        """Seconds since etcd last granted or renewed the lease; infinite before."""
        return self._clock.monotonic() - self._renewed_at_s

    async def run(self) -> None:
        """Register and keep registered, until cancelled or withdrawn."""
        failures = 0
        while not self._withdrawn:
            try:
                async with self._turn:
                    await self._assert()
                failures = 0
                wait_s = self._ttl_s / 3 * self._rng.uniform(0.9, 1.0)
            except RegistryError as error:
                failures += 1
                log.warning(
                    "registration: not confirmed, trying again", error=error.message, failures=failures
                )
                wait_s = self._backoff_s(failures)
            except Exception:
                failures += 1
                log.exception("registration: a bug; trying again")
                wait_s = self._backoff_s(failures)
            await self._sleep(wait_s)

    async def update(self, worker: Worker) -> bool:
        """Say something new of the same worker (its state, its figures).

        Returns:
            Whether etcd has it. If not, `run` goes on trying.

        Raises:
            ValueError: it is another worker, model or role: that would be another key.
        """
        if (worker.worker_id, worker.model, worker.role) != (
            self._worker.worker_id,
            self._worker.model,
            self._worker.role,
        ):
            raise ValueError(f"worker {self._worker.worker_id}: an update cannot change id, model or role")
        self._worker = worker
        try:
            async with self._turn:
                await self._assert()
        except RegistryError as error:
            log.warning("registration: update not written yet", error=error.message)
            return False
        return True

    async def withdraw(self) -> bool:
        """Take the key away for good.

        Returns:
            Whether etcd has confirmed it. If not, the lease ends by itself within `ttl_s`.
        """
        self._withdrawn = True
        async with self._turn:
            lease, self._lease, self._stands = self._lease, 0, False
            if not lease:
                return True
            try:
                await self._etcd.revoke(lease)
            except RegistryError as error:
                log.warning("registration: not withdrawn, the lease will run out", error=error.message)
                return False
        log.info("registration: withdrawn", worker=self._worker.worker_id)
        return True

    async def _assert(self) -> None:
        """One turn: a living lease, and our value under it."""
        if self._withdrawn:
            return
        if self._lease and not await self._renewed():
            log.warning("registration: the lease is gone, registering again", worker=self._worker.worker_id)
            self._lease, self._stands = 0, False
            await self._sleep(self._rng.uniform(0.0, _SPREAD_S))
        if not self._lease:
            asked_at_s = self._clock.monotonic()
            self._lease = await self._etcd.grant(self._ttl_s)
            self._renewed_at_s = asked_at_s
        await self._write()

    async def _renewed(self) -> bool:
        asked_at_s = self._clock.monotonic()  # etcd counts from some moment after this one
        if not await self._etcd.keepalive(self._lease):
            return False
        self._renewed_at_s = asked_at_s
        return True

    async def _write(self) -> None:
        """Make the key say what the worker is, and read the wish on the way.

        Raises:
            Superseded: another process has taken the key over.
            RegistryError: etcd's failures; the key keeps changing under us.
        """
        value = record.write(self._worker)
        seen: KeyValue | None = None
        for _ in range(_TRIES):
            answer = await self._etcd.txn(*self._put_if(seen, value))
            self._tell_wish(answer)
            if answer.succeeded:
                self._now_stands()
                return
            seen = _found(answer, 0)
            if seen is None:
                continue  # it went between two looks
            if seen.lease == self._lease and seen.value == value:
                self._now_stands()
                return
            self._check_owner(seen)
        raise RegistryError(f"key {self._key.decode()} changed {_TRIES} times while it was being written")

    def _put_if(self, seen: KeyValue | None, value: bytes) -> tuple[list[dict[str, Any]], ...]:
        """Put unless the key is other than was `seen` (None: not there); else look at it. Read the wish."""
        compare: dict[str, Any] = {"key": self._key, "result": "EQUAL"}
        if seen is None:
            compare |= {"target": "CREATE", "create_revision": 0}
        else:
            compare |= {"target": "MOD", "mod_revision": seen.mod_revision}
        put = {"request_put": {"key": self._key, "value": value, "lease": self._lease}}
        look = {"request_range": {"key": self._key}}
        wish = {"request_range": {"key": self._wish_key}}
        return [compare], [put, wish], [look, wish]

    def _check_owner(self, seen: KeyValue) -> None:
        """May we write over what was seen? Ours always; another's only if we have not been there before."""
        other = record.instance_of(seen.value)
        if other == self._worker.instance:
            return
        if self._held_once:
            self._stands = False
            raise Superseded(
                f"key {self._key.decode()} was taken over by instance {other}: "
                "two processes run under one worker id; end one, or give it another id"
            )
        log.warning("registration: taking over", worker=self._worker.worker_id, from_instance=other)

    def _now_stands(self) -> None:
        if not self._stands:
            log.info("registration: registered", worker=self._worker.worker_id, lease=self._lease)
        self._stands = self._held_once = True

    def _tell_wish(self, answer: TxnAnswer) -> None:
        wished = _found(answer, 1) is not None
        if wished is not self._wished:
            self._wished = wished
            if self._on_wish is not None:
                self._on_wish(wished)

    def _backoff_s(self, failures: int) -> float:
        first_s, most_s = _BACKOFF_S
        ceiling_s = min(most_s, first_s * 2 ** min(failures - 1, 10))
        return self._rng.uniform(ceiling_s / 2, ceiling_s)


def _found(answer: TxnAnswer, at: int) -> KeyValue | None:
    part = answer.responses[at].response_range if at < len(answer.responses) else None
    return part.kvs[0] if part is not None and part.kvs else None
