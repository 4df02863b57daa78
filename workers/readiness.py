"""Ready means ready: what must hold before a worker may be registered."""

from __future__ import annotations

from collections.abc import Awaitable

from proxy.clock import Sleep
from proxy.roster import Role
from workers.engine_api import EngineApi, ServerFacts, Silent

_LOOK_S = 0.5
_CANARY_TRIES = 3
"""why: on a node that just warmed up the first may be cut short; one that never passes is no worker."""


class NotReady(Exception):
    """The engine is up and will not serve; the message says what it failed at."""


class Readiness:
    """The stages, in order. `stage` is what is waited for now, for people."""

    def __init__(self, api: EngineApi, role: Role, sleep: Sleep) -> None:
        self._api = api
        self._role = role
        self._sleep = sleep
        self.stage = "the API"

    async def reached(self, *, canary: bool, canary_limit_s: float) -> ServerFacts:
        """Waits, for as long as the caller lets it, until the engine serves.

        The API answers; every rank of a prefill is known to its bootstrap server; one token was generated
        without a peer.

        Returns:
            What the engine says of itself.

        Raises:
            NotReady: the canary failed.
        """
        await self._until_api()
        if self._role is Role.PREFILL:
            self.stage = "all ranks at the bootstrap server"
            await self._until_ranks()
        if canary:
            self.stage = "the canary"
            await self._until_canary(canary_limit_s)
        self.stage = "the server's facts"
        return await self._told_facts()

    async def _until_api(self) -> None:
        while not await _heard(self._api.answers()):
            await self._sleep(_LOOK_S)

    async def _until_ranks(self) -> None:
        while not await _heard(self._api.ranks_registered()):
            await self._sleep(_LOOK_S)

    async def _until_canary(self, limit_s: float) -> None:
        said: str | None = None
        for _ in range(_CANARY_TRIES):
            try:
                said = await self._api.canary(limit_s)
            except Silent as silent:
                said = str(silent)
            if said is None:
                return
            await self._sleep(_LOOK_S)
        raise NotReady(f"{_CANARY_TRIES} canary requests failed, the last with {said}")

    async def _told_facts(self) -> ServerFacts:
        while True:
            try:
                return await self._api.facts()
            except Silent:
                await self._sleep(_LOOK_S)


async def _heard(question: Awaitable[bool]) -> bool:
    try:
        return await question
    except Silent:
        return False
