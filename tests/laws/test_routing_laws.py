"""Laws of the desk: whatever is done in whatever order."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from proxy.errors import NoPair
from proxy.roster import Change, Role, State
from proxy.routing.breaker import BreakerRules, Settlement
from proxy.routing.group import PoolRules
from proxy.routing.member import Member
from proxy.routing.placement import Placement
from proxy.routing.policies import POLICIES
from tests.unit.routing.desk import desk, fleet, worker

_ROLES = st.sampled_from([Role.PREFILL, Role.DECODE])
_NUMBERS = st.integers(0, 2)


class Desk(RuleBasedStateMachine):
    @initialize(
        prefill=st.sampled_from(sorted(POLICIES)),
        decode=st.sampled_from(sorted(POLICIES)),
        cap=st.one_of(st.none(), st.integers(1, 3)),
    )
    def opens(self, prefill: str, decode: str, cap: int | None) -> None:
        rules = PoolRules(
            prefill_policy=prefill,
            decode_policy=decode,
            max_in_flight_per_worker=cap,
            slow_start_s=5.0,
            breaker=BreakerRules(failures=2, open_s=5.0, window_s=20.0, least_requests=2),
        )
        self.cap = cap
        self.pool, self.clock = desk(fleet(2, 2), rules)
        self.held: list[Placement] = []
        self.ever: set[Member] = set(self.pool.members())

    @rule(
        role=_ROLES,
        number=_NUMBERS,
        version=st.sampled_from([None, "0.5.2", "0.5.23"]),
        state=st.sampled_from(list(State)),
        instance=st.sampled_from(["one", "two"]),
    )
    def joins(self, role: Role, number: int, version: str | None, state: State, instance: str) -> None:
        new = worker(role, number, engine_version=version, state=state, instance=instance)
        self.pool.apply([Change(new.worker_id, new)])
        self.ever.update(self.pool.members())

    @rule(role=_ROLES, number=_NUMBERS)
    def leaves(self, role: Role, number: int) -> None:
        self.pool.apply([Change(worker(role, number).worker_id, None)])

    @rule(role=_ROLES, number=_NUMBERS, ok=st.booleans())
    def is_probed(self, role: Role, number: int, ok: bool) -> None:
        self.pool.probed(worker(role, number).worker_id, ok, "said so")

    @rule(seconds=st.floats(0.0, 8.0))
    def waits(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(
        avoided=st.sets(st.tuples(st.sampled_from(["p0", "p1"]), st.sampled_from(["d0", "d1"]))),
        kept=st.sampled_from([None, "p0", "p1", "p2", "d0", "d1", "d2"]),
    )
    def chooses(self, avoided: set[tuple[str, str]], kept: str | None) -> None:
        keep = None if kept is None else self.pool.get(kept)
        trusted = self._trusted_edges()
        try:
            placement = self.pool.choose(self.pool.group_for(None), avoided, keep)
        except NoPair:
            assert self.pool.unready() is not None
            return
        if placement is None:
            assert self.cap is not None
            return
        self.held.append(placement)
        for member in (placement.prefill, placement.decode):
            assert member.standing_by is None
            assert self.pool.get(member.worker.worker_id) is member
        mine, theirs = placement.prefill.worker.engine_version, placement.decode.worker.engine_version
        assert mine is None or theirs is None or mine == theirs
        assert placement.edge in trusted or not trusted, "a benched edge was offered beside a trusted one"

    def _trusted_edges(self) -> set[tuple[str, str]]:
        """Edges of free workers that nothing speaks against, or of which a trial is due."""
        lineup = self.pool._lineup(self.pool.group_for(None)) if self.pool._groups else None
        if lineup is None:
            return set()
        now = self.clock.now
        return {
            (prefill.worker.worker_id, decode.worker.worker_id)
            for prefill in lineup.prefills
            if prefill.breaker.admits(now) and not prefill.full
            for decode in self.pool._health.fit(prefill, lineup.partners[prefill], now)
            if not decode.full
        }

    @rule(
        index=st.integers(0, 50),
        role=st.one_of(st.none(), _ROLES),
        settlement=st.sampled_from(list(Settlement)),
        twice=st.booleans(),
    )
    def ends(self, index: int, role: Role | None, settlement: Settlement, twice: bool) -> None:
        if self.held:
            placement = self.held.pop(index % len(self.held))
            self.pool.settle(placement, role, settlement)
            placement.release()
            if twice:
                placement.release()

    @rule(index=st.integers(0, 50))
    def ends_its_prefill_leg(self, index: int) -> None:
        if self.held:
            self.held[index % len(self.held)].release_prefill()

    @invariant()
    def never_negative_never_over_the_cap(self) -> None:
        for member in getattr(self, "ever", ()):
            assert member.in_flight >= 0
            assert self.cap is None or member.in_flight <= self.cap

    @invariant()
    def what_is_benched_is_counted(self) -> None:
        if hasattr(self, "pool"):
            health = self.pool._health
            assert self.pool.open_members == sum(not m.breaker.closed for m in self.pool.members())
            assert self.pool.open_edges == sum(not c.breaker.closed for c in health._cases.values())
            assert not health.calm or not (health.troubled() or health._cases)

    @invariant()
    def nobody_is_on_more_than_one_trial_at_a_time(self) -> None:
        trials = [
            (breaker, permit)
            for held in getattr(self, "held", ())
            for breaker, permit in (
                (held.prefill.breaker, held.prefill_permit),
                (held.decode.breaker, held.decode_permit),
            )
            if permit < 0 and breaker._trial == permit
        ]
        assert len(trials) == len({id(breaker) for breaker, _ in trials})

    def teardown(self) -> None:
        for placement in getattr(self, "held", ()):
            placement.release()
        assert all(member.in_flight == 0 for member in getattr(self, "ever", ()))


TestDesk = Desk.TestCase
TestDesk.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
