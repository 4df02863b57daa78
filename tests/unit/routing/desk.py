"""A pool with a clock that only tests move."""

from __future__ import annotations

import random

from proxy.roster import Change, Role, Worker
from proxy.routing.group import PoolRules
from proxy.routing.pool import Pool


class HandClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


def worker(role: Role, number: int, **said: object) -> Worker:
    port = (10000 if role is Role.PREFILL else 20000) + number
    return Worker(f"{role.value[0]}{number}", f"http://10.0.0.1:{port}", role, **said)  # type: ignore[arg-type]


def fleet(prefills: int, decodes: int, **said: object) -> list[Worker]:
    return [worker(Role.PREFILL, n, **said) for n in range(prefills)] + [
        worker(Role.DECODE, n, **said) for n in range(decodes)
    ]


def desk(workers: list[Worker], rules: PoolRules | None = None) -> tuple[Pool, HandClock]:
    clock = HandClock()
    pool = Pool(rules or PoolRules(slow_start_s=0.0), clock, random.Random(7))
    pool.apply([Change(w.worker_id, w) for w in workers])
    return pool, clock
