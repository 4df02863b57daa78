"""A fleet under traffic, without engines: chance decides what fails, and only the scene moves the clock."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.roster import Role
from proxy.routing.breaker import BreakerRules, Settlement
from proxy.routing.group import PoolRules
from proxy.routing.member import Member
from proxy.routing.placement import Edge, Placement
from tests.unit.routing.desk import desk, fleet

ATTEMPTS = 5


@dataclass(slots=True)
class _Request:
    avoid: set[Edge] = field(default_factory=set)
    keep: Member | None = None


class Scene:
    """Requests come evenly; each attempt takes as long as `concurrency` others take to come."""

    def __init__(
        self,
        prefills: int,
        decodes: int,
        seed: int,
        *,
        policy: str = "least_loaded",
        per_s: float = 200.0,
        concurrency: int = 8,
        breaker: BreakerRules | None = None,
    ) -> None:
        rules = PoolRules(policy, policy, slow_start_s=0.0, breaker=breaker or BreakerRules())
        self.pool, self.clock = desk(fleet(prefills, decodes), rules)
        self.group = self.pool.group_for(None)
        self.rng = random.Random(seed)
        self.failing: Callable[[str, str], float] = lambda prefill, decode: 0.0
        """The chance that an attempt over an edge fails."""
        self.blame: Role | None = None
        self.settlement = Settlement.FAILURE
        self.step_s = 1.0 / per_s
        self.concurrency = concurrency
        self.attempts = self.requests = self.lost = 0
        self.tried: Counter[Edge] = Counter()
        self.opened: Counter[str] = Counter()
        self._going: deque[tuple[_Request, Placement]] = deque()

    def run(self, requests: int) -> None:
        """So many requests, retried as the proxy does; the figures are of this run alone."""
        self.attempts = self.requests = self.lost = 0
        self.tried.clear()
        self.opened.clear()
        for _ in range(requests):
            self.requests += 1
            self.clock.now += self.step_s
            self._attempt(_Request())
            while len(self._going) > self.concurrency:
                self._end()
        while self._going:
            self._end()

    def _attempt(self, request: _Request) -> None:
        placement = self.pool.choose(self.group, request.avoid, request.keep)
        assert placement is not None
        self.attempts += 1
        self.tried[placement.edge] += 1
        self._going.append((request, placement))

    def _end(self) -> None:
        request, placement = self._going.popleft()
        benched = self.pool.open_edges, self.pool.open_members
        failed = self.rng.random() < self.failing(*placement.edge)
        if failed:
            self.pool.settle(placement, self.blame, self.settlement)
        else:
            self.pool.settle(placement, None, Settlement.SUCCESS)
        placement.release()
        self.opened["edges"] += max(0, self.pool.open_edges - benched[0])
        self.opened["members"] += max(0, self.pool.open_members - benched[1])
        if not failed:
            return
        request.avoid.add(placement.edge)
        request.keep = placement.prefill
        if len(request.avoid) < ATTEMPTS and self.attempts < ATTEMPTS * self.requests:
            self._attempt(request)
        else:
            self.lost += 1

    @property
    def benched(self) -> set[str]:
        """Workers whose breaker is open."""
        return {m.worker.worker_id for m in self.pool.members() if not m.breaker.closed}
