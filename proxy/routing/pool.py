"""The desk: who is there, who is asked next, and what became of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence

from proxy.clock import Clock
from proxy.errors import NoPair, UnknownModel
from proxy.roster import Change, Role, Worker
from proxy.routing.breaker import Settlement
from proxy.routing.group import Group, PoolRules
from proxy.routing.health import Health
from proxy.routing.lineup import Lineup, missing
from proxy.routing.member import Member
from proxy.routing.placement import Edge as Edge
from proxy.routing.placement import Placement
from proxy.routing.policies import POLICIES
from proxy.routing.selection import NO_EDGES as NO_EDGES
from proxy.routing.selection import search

_SUCCESS = Settlement.SUCCESS


class Pool:
    """Answers one question, "which pair?", and keeps the books that the answer needs."""

    def __init__(self, rules: PoolRules, clock: Clock, rng: random.Random) -> None:
        self._rules = rules
        self._now = clock.monotonic
        self._rng = rng
        self._groups: dict[str | None, Group] = {}
        self._members: dict[str, Member] = {}
        self._health = Health(rules.breaker, self._members, self._lineup_of)
        self.edge_permit = self._health.edge_permit
        """For placements: a permit for an edge."""
        self.on_room: Callable[[Group], None] = lambda group: None
        """Called when a request that might make room for a waiting one has ended."""
        self.on_change: Callable[[], None] = lambda: None
        """Called once for each `apply`, however many workers came, changed or went."""
        self.on_leave: Callable[[Worker], None] = lambda worker: None
        """Called for every worker that has gone."""

    # --- who is there

    def apply(self, changes: Sequence[Change]) -> None:
        """Takes in what the directory, or an operator, says. In-flight requests are untouched."""
        for change in changes:
            if change.worker is None:
                self._remove(change.worker_id)
            else:
                self._put(change.worker)
        self.on_change()

    def _put(self, worker: Worker) -> None:
        old = self._members.get(worker.worker_id)
        joined_at = None
        # Another process, or another place, under the same id shares nothing with the old one.
        if old is not None and (
            old.worker.instance != worker.instance
            or old.worker.url != worker.url
            or old.worker.model != worker.model
            or old.worker.role is not worker.role
        ):
            if old.worker.instance == worker.instance and old.worker.url == worker.url:
                joined_at = old.joined_at  # only its model has become known
            self._remove(worker.worker_id)
            old = None
        if old is None:
            group = self._groups.get(worker.model)
            if group is None:
                group = self._groups[worker.model] = self._new_group(worker.model)
            if joined_at is None:
                joined_at = group.joins(worker.role, self._now())
            member = Member(
                worker, self._rules.breaker, self._cap(worker), joined_at, self._rules.slow_start_s
            )
            self._members[worker.worker_id] = group.members[worker.worker_id] = member
        else:
            old.worker = worker
            old.cap = self._cap(worker)
        self._changed(self._groups[worker.model])

    def _remove(self, worker_id: str) -> None:
        member = self._members.pop(worker_id, None)
        if member is None:
            return
        group = self._groups[member.worker.model]
        del group.members[worker_id]
        if not group.members:
            del self._groups[member.worker.model]
        self._health.forget(member)
        self._changed(group)
        self.on_leave(member.worker)

    def _new_group(self, model: str | None) -> Group:
        prefill, decode = POLICIES[self._rules.prefill_policy], POLICIES[self._rules.decode_policy]
        return Group(model, prefill(self._rng), decode(self._rng))

    def _cap(self, worker: Worker) -> int | None:
        return self._rules.max_in_flight_per_worker or worker.max_running_requests

    def _changed(self, group: Group) -> None:
        group.lineup = None
        self.on_room(group)

    def members(self) -> Iterator[Member]:
        """Every worker known, whatever its state."""
        return iter(tuple(self._members.values()))

    def get(self, worker_id: str) -> Member | None:
        """One worker."""
        return self._members.get(worker_id)

    @property
    def models(self) -> list[str]:
        """The models served, by name, of workers that name theirs."""
        return sorted(model for model in self._groups if model is not None)

    @property
    def open_edges(self) -> int:
        """Edges whose breaker is not closed."""
        return self._health.open_edges

    def benched_edges(self) -> list[Edge]:
        """The same by name."""
        return self._health.benched_edges()

    @property
    def open_members(self) -> int:
        """Workers whose breaker is not closed."""
        return self._health.open_members

    def unready(self) -> str | None:
        """Why no request could be served now; None if some model has a pair."""
        reason = "no prefill and no decode worker is known"
        for group in self._groups.values():
            lineup = self._lineup(group)
            if lineup.prefills:
                return None
            reason = missing(group.members.values(), lineup, group.model)
        return reason

    # --- health

    def probed(self, worker_id: str, ok: bool, reason: str = "") -> None:
        """Takes in the verdict of the probes, after their own thresholds."""
        member = self._members.get(worker_id)
        if member is None:
            return
        if ok:
            member.last_ok_at = self._now()
        member.probe_reason = reason
        if member.probe_ok is not ok:
            member.probe_ok = ok
            self._changed(self._groups[member.worker.model])

    def settle(self, placement: Placement, role: Role | None, settlement: Settlement) -> None:
        """Takes in what an attempt proved: of one worker (its role), or of the edge (None)."""
        now = self._now()
        if settlement is _SUCCESS:
            self.worked(placement, now)
        else:
            placement.settled = True
            self._health.settle(placement, role, settlement, now)

    def worked(self, placement: Placement, now: float) -> None:
        """Takes in that all three have worked: prefill, decode and their edge."""
        placement.settled = True
        placement.prefill.last_ok_at = placement.decode.last_ok_at = now
        # While all is well there is nothing to forgive.
        if not self._health.calm:
            self._health.settle(placement, None, _SUCCESS, now)

    # --- which pair

    def group_for(self, model: str | None) -> Group:
        """The workers that a request for `model` may go to.

        Raises:
            UnknownModel: nobody serves that model, or several models are served and none is named.
        """
        group = self._groups.get(model or self._rules.default_model)
        if group is not None:
            return group
        # One pool alone serves any name, as SGLang itself answers to any.
        if len(self._groups) == 1:
            return next(iter(self._groups.values()))
        if not self._groups:
            raise NoPair("no prefill and no decode worker is known", retry_after_s=2)
        served = ", ".join(self.models)
        if model:
            raise UnknownModel(f"no worker serves model {model!r}; served are: {served}", param="model")
        error = UnknownModel(f"several models are served, so the request must name one of: {served}")
        error.status = 400
        raise error

    def choose(
        self, group: Group, avoid: Collection[Edge] = NO_EDGES, keep: Member | None = None
    ) -> Placement | None:
        """A pair for one attempt; None when all that could serve it are at their caps.

        Args:
            group: whose workers.
            avoid: edges that this request has seen fail; another is preferred where there is one.
            keep: the half of the failed pair that should serve again, with another partner: its cache
                is warm. One that is full or benched is not waited for.

        Raises:
            NoPair: nobody is there, fit and allowed to work together.
        """
        now = self._now()
        lineup = group.lineup or self._lineup(group)
        if not lineup.prefills:
            raise NoPair(missing(group.members.values(), lineup, group.model), retry_after_s=2)
        if not (lineup.capped or avoid or self._health.troubled()):
            prefill = group.prefill_policy.pick(lineup.prefills, now)
            return Placement(prefill, group.decode_policy.pick(lineup.partners[prefill], now), self, now)
        pair = search(group, lineup, self._health, avoid, keep, now)
        return None if pair is None else Placement(*pair, self, now)

    def _lineup_of(self, member: Member) -> Lineup:
        return self._lineup(self._groups[member.worker.model])

    def _lineup(self, group: Group) -> Lineup:
        if group.lineup is None:
            group.lineup = Lineup(group.members.values(), self._rules.pairing)
        return group.lineup

    # --- the books; only a Placement calls these

    def withdraw(self, placement: Placement) -> None:
        """Ends an attempt, of which nothing was learned if nobody has settled it."""
        if not placement.settled:
            self.settle(placement, None, Settlement.IGNORED)

    def prefills_beside(self, prefill: Member) -> Sequence[Member]:
        """The prefills of a prefill's model that are fit now."""
        group = self._groups.get(prefill.worker.model)
        return () if group is None else self._lineup(group).prefills

    def freed(self, member: Member) -> None:
        """A request has left a worker that has a cap."""
        group = self._groups.get(member.worker.model)
        if group is not None:
            self.on_room(group)
