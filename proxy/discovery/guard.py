"""The mass-delete guard: decides which deletions to believe.

When etcd, or the way to it, is sick for longer than a lease lives, the keys of a whole healthy fleet go
at once. A deletion is a worker's word only when one worker says it; when most go together it is more
likely the registry's illness, and the workers' own answers are the better witness. Pure: no waiting.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from proxy.roster import Role, State, Worker

Pool = tuple[str | None, Role]
"""Model and role: what fails as one when it is gone."""


def pool_of(worker: Worker) -> Pool:
    """The pool that a worker counts in."""
    return (worker.model, worker.role)


@dataclass(frozen=True, slots=True)
class _Gone:
    worker: Worker
    at_s: float
    answered: bool
    """Asked before the deletion was believed: afterwards nobody probes the worker any more."""


@dataclass(frozen=True, slots=True)
class _Held:
    worker: Worker
    until_s: float
    ask_from_s: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do about deletions: delete these, and bring those back that were deleted too soon."""

    believed: list[str]
    revived: list[Worker]


class Guard:
    """Holds doubtful deletions back for a while.

    Doubtful is a deletion when, counting those of the last `window_s`, **more than half** (and at least
    two) of the fleet or of one pool are gone, when a whole list comes back empty, or when the guard was
    made wary; and only while the worker answers and has not said that it drains. More than half, because
    what is left could not carry the load; a single worker is never many, so that the one of a small set
    can be taken away.
    """

    def __init__(
        self,
        answers: Callable[[str], bool],
        *,
        hold_s: float = 60.0,
        window_s: float = 15.0,
        settle_s: float = 5.0,
    ) -> None:
        """Make one.

        Args:
            answers: has this worker (by id) been seen well lately, by probes or by traffic?
            hold_s: how long a doubtful deletion is disbelieved, while etcd can be reached.
            window_s: why: one lease's life; leases that die of one cause end within it, not at once.
            settle_s: how long a worker that was brought back is not asked about: it must be probed first.
        """
        self._answers = answers
        self._hold_s = hold_s
        self._window_s = window_s
        self._settle_s = settle_s
        self._recent: dict[str, _Gone] = {}  # believed of late, the oldest first
        self._held: dict[str, _Held] = {}
        self._wary_until_s = -math.inf

    @property
    def held(self) -> int:
        """How many deletions are disbelieved now."""
        return len(self._held)

    def holds(self, worker_id: str) -> bool:
        """Is this worker's deletion disbelieved now?"""
        return worker_id in self._held

    def judge(
        self, gone: Sequence[Worker], sizes: Mapping[Pool, int], now_s: float, *, emptied: bool = False
    ) -> Verdict:
        """Decide on deletions that came together.

        Args:
            gone: workers whose keys are gone, and that are not held already.
            sizes: workers of each pool before these deletions, held ones included.
            now_s: monotonic seconds.
            emptied: they are gone because a whole list came back with no worker at all.
        """
        self._forget_old(now_s)
        asked = [_Gone(worker, now_s, self._answers(worker.worker_id)) for worker in gone]
        abrupt = [one for one in asked if one.worker.state is not State.DRAINING]
        sick = self._sick_pools(abrupt, sizes, doubt_all=emptied or now_s < self._wary_until_s)
        doubted = [one for one in abrupt if one.answered and pool_of(one.worker) in sick]
        revived = [one for one in self._recent.values() if one.answered and pool_of(one.worker) in sick]
        self._hold(doubted, now_s)
        self._hold(revived, now_s + self._settle_s)
        for one in revived:
            del self._recent[one.worker.worker_id]
        self._recent |= {one.worker.worker_id: one for one in abrupt if not self.holds(one.worker.worker_id)}
        return Verdict(
            believed=[worker.worker_id for worker in gone if not self.holds(worker.worker_id)],
            revived=[one.worker for one in revived],
        )

    def returned(self, worker_id: str) -> None:
        """The worker's key is back: forget that it was gone."""
        self._held.pop(worker_id, None)
        self._recent.pop(worker_id, None)

    def due(self, now_s: float, *, reachable: bool) -> list[str]:
        """Held deletions that are to be believed now: the worker is silent, or its time is up.

        Time is up only while etcd can be reached: a worker cannot say that it lives to an etcd that is away.
        """
        over = [
            worker_id
            for worker_id, held in self._held.items()
            if (now_s >= held.ask_from_s and not self._answers(worker_id))
            or (reachable and now_s >= held.until_s)
        ]
        for worker_id in over:
            del self._held[worker_id]
        return over

    def extend(self, now_s: float) -> None:
        """Etcd is back: give the workers the whole time to register again."""
        self._held = {
            worker_id: _Held(held.worker, now_s + self._hold_s, held.ask_from_s)
            for worker_id, held in self._held.items()
        }

    def be_wary(self, now_s: float) -> None:
        """For `window_s`, doubt every deletion.

        For when leases may have run out unseen, each by itself: workers register again one by one, and the
        last one missing would look like the only one that went.
        """
        self._wary_until_s = now_s + self._window_s

    def _hold(self, doubted: Iterable[_Gone], ask_from_s: float) -> None:
        for one in doubted:
            self._held[one.worker.worker_id] = _Held(one.worker, one.at_s + self._hold_s, ask_from_s)

    def _sick_pools(
        self, abrupt: Sequence[_Gone], sizes: Mapping[Pool, int], *, doubt_all: bool
    ) -> set[Pool]:
        recent = Counter(pool_of(one.worker) for one in self._recent.values())
        held = Counter(pool_of(one.worker) for one in self._held.values())
        lost = recent + held + Counter(pool_of(one.worker) for one in abrupt)
        whole = Counter(sizes) + recent
        if doubt_all or _most(lost.total(), whole.total()):
            return set(lost)
        return {pool for pool, count in lost.items() if _most(count, whole[pool])}

    def _forget_old(self, now_s: float) -> None:
        from_s = now_s - self._window_s
        for worker_id in [*takewhile(lambda one: self._recent[one].at_s <= from_s, self._recent)]:
            del self._recent[worker_id]


def _most(part: int, whole: int) -> bool:
    return part >= 2 and 2 * part > whole
