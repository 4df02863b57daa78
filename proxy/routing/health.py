"""Health by edge: whose fault failures are, who is benched for it, and who may be tried again.

A failed KV transfer says "this prefill and this decode do not get on", not which of them is broken; after
one failed send, SGLang's prefill refuses that one decode, and works with all others. So:

- A failure that says that the edge is dead benches the **edge** at once. Any other benches it when the
  edge's rate of failures stands clearly above that of the other edges (`evidence`).
- A **worker** is convicted when its failures stand clearly above those of its peers even without its worst
  edge: one bad edge never convicts the two at its ends. Failures that are a worker's own (it takes no
  connection, it answers 500) convict it by their number in a row, too.
- Only requests sent while prefill, decode and edge were all trusted are evidence. One trial at a time
  brings a benched one back, together with none that is benched itself, so that its failure has one reason.

State is kept of edges that have failed within the window, and while nobody has failed of nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from proxy.roster import Role
from proxy.routing.breaker import FIRST_EPOCH, Breaker, BreakerRules, Settlement
from proxy.routing.evidence import SPANS, Count, Tally, baseline, stands_above, without_worst
from proxy.routing.lineup import Lineup
from proxy.routing.member import Member
from proxy.routing.placement import Edge, Placement

MOST_EDGES = 4096
"""Edges of which state is kept, at most: some 12 MB. Beyond, the one longest without a failure goes."""


@dataclass(slots=True)
class _Case:
    """What speaks against one edge."""

    prefill: Member
    decode: Member
    breaker: Breaker
    tally: Tally
    failed_at: float

    def of(self, placement: Placement) -> bool:
        """Whether it is about these two, not about others that had their ids before or have them now."""
        return self.prefill is placement.prefill and self.decode is placement.decode


def _said(settlement: Settlement, blamed: bool) -> Settlement:
    """What a trial said of one of those who took part."""
    if settlement is Settlement.SUCCESS or blamed:
        return settlement
    return Settlement.IGNORED


def _in_service(member: Member, model: str | None) -> bool:
    return member.breaker.closed and member.standing_by is None and member.worker.model == model


class Health:
    """Owns what is known against edges; opens and closes the breakers of edges and members."""

    def __init__(
        self,
        rules: BreakerRules,
        members: Mapping[str, Member],
        lineup_of: Callable[[Member], Lineup],
    ) -> None:
        """Makes the books of a fleet of which nothing is known.

        Args:
            rules: what opens a breaker.
            members: those that are there now, by id; the pool's own dict.
            lineup_of: the workers of a member's model that are fit now.
        """
        self._rules = rules
        self._members = members
        self._lineup_of = lineup_of
        self._cases: dict[Edge, _Case] = {}  # the one that failed last is the last
        self._part_s = rules.window_s / SPANS
        self._sweep_at = 0.0
        self._failed_at = float("-inf")
        self.calm = True
        """Whether nobody has failed within the window, and nothing is benched: no success is news then."""
        self.open_edges = 0
        self.open_members = 0

    # --- what an attempt proved

    def settle(self, placement: Placement, role: Role | None, settlement: Settlement, now: float) -> None:
        """Takes in what an attempt proved: of one worker (its role), or of the edge (None)."""
        if not self._rules.enabled:
            return
        failed = settlement is Settlement.FAILURE or settlement is Settlement.SEVERED
        if failed:
            self.calm = False
            self._failed_at = now
        if now >= self._sweep_at:
            self._sweep(now)
        case = self._cases.get(placement.edge)
        if case is not None and not case.of(placement):
            case = None
        prefill, decode, edge_permit = placement.prefill, placement.decode, placement.edge_permit
        if not (
            prefill.breaker.trusts(placement.prefill_permit)
            and decode.breaker.trusts(placement.decode_permit)
            and (edge_permit == FIRST_EPOCH if case is None else case.breaker.trusts(edge_permit))
        ):
            self._settle_trial(placement, role, settlement, case, now)
        elif failed:
            self._failed(placement, role, settlement is Settlement.SEVERED, case, now)
        elif settlement is Settlement.SUCCESS:
            part = int(now / self._part_s)
            prefill.tally.add(part, 0)
            decode.tally.add(part, 0)
            prefill.streak = decode.streak = 0
            if case is not None:
                case.tally.add(part, 0)

    def _settle_trial(
        self, placement: Placement, role: Role | None, settlement: Settlement, case: _Case | None, now: float
    ) -> None:
        """Somebody was benched when it was sent, or has been since: of the others it proves little."""
        for member, permit in (
            (placement.prefill, placement.prefill_permit),
            (placement.decode, placement.decode_permit),
        ):
            breaker, own = member.breaker, role is member.worker.role
            if not breaker.closed:
                # A trial's partner and edge are trusted: if all fail together, it is this one's fault.
                breaker.settle(permit, _said(settlement, own or role is None), now)
                if breaker.closed:
                    member.tally.forgiven = int(now / self._part_s)
                    member.streak = 0
                    self.open_members -= self._present(member)
            elif settlement is Settlement.SUCCESS:
                member.streak = 0
            elif own and settlement is not Settlement.IGNORED and breaker.trusts(permit):
                member.streak += 1
                if member.streak >= self._rules.failures:
                    self._bench(member, now)
        if case is not None and not case.breaker.closed:
            case.breaker.settle(placement.edge_permit, _said(settlement, role is None), now)
            if case.breaker.closed:
                case.tally.forgiven = int(now / self._part_s)
                self.open_edges -= 1

    def _failed(
        self, placement: Placement, role: Role | None, severed: bool, case: _Case | None, now: float
    ) -> None:
        """Adds a failure to the evidence, and judges by it."""
        part = int(now / self._part_s)
        # Of its partner and of their edge, a worker's own failure says nothing.
        suspects = [m for m in (placement.prefill, placement.decode) if role in (None, m.worker.role)]
        for member in suspects:
            member.tally.add(part, 1)
            member.streak += role is not None
        if role is None:
            case = self._blame(placement, case, now)
            if case is not None:
                case.tally.add(part, 1)
        guilty = next((member for member in suspects if self._is_worse(member, part)), None)
        if guilty is not None:
            self._bench(guilty, now)
        if role is not None or case is None:
            return
        if severed or (guilty is None and self._edge_is_worse(case, part)):
            case.breaker.open(now, relapse=not severed)
            self.open_edges += 1

    def _blame(self, placement: Placement, case: _Case | None, now: float) -> _Case | None:
        """The edge's case, as the latest; opened if it has none, but not of workers that have gone."""
        if case is not None:
            del self._cases[placement.edge]
            case.failed_at = now
        elif self._present(placement.prefill) and self._present(placement.decode):
            if len(self._cases) >= MOST_EDGES:
                self._drop(next(iter(self._cases)))
            rules = self._rules
            breaker = Breaker(rules.edge_open_s, rules.edge_open_max_s, rules.window_s)
            case = _Case(placement.prefill, placement.decode, breaker, Tally(), now)
        else:
            return None
        self._cases[placement.edge] = case
        return case

    def _bench(self, member: Member, now: float) -> None:
        if self._present(member):
            member.breaker.open(now)
            self.open_members += 1

    def _present(self, member: Member) -> bool:
        return self._members.get(member.worker.worker_id) is member

    # --- who is worse than others

    def _is_worse(self, member: Member, part: int) -> bool:
        """Whether a worker is out of order: by its own failures in a row, or by its rate among its peers."""
        if member.streak >= self._rules.failures:
            return True
        forgiven = member.tally.forgiven
        spans = member.tally.spans(part, forgiven)
        # The cheap question first: at a usual rate of failures nobody looks further.
        if not stands_above(spans, 0.0, self._rules.least_requests):
            return False
        edges = [
            case.tally.spans(part, forgiven)
            for case in self._cases.values()
            if member is case.prefill or member is case.decode
        ]
        lineup = self._lineup_of(member)
        peers = lineup.prefills if member.worker.role is Role.PREFILL else lineup.decodes
        rates = [p.tally.rate(part) if p.breaker.closed else 1.0 for p in peers if p is not member]
        return self._above(without_worst(spans, edges), baseline(rates))

    def _edge_is_worse(self, case: _Case, part: int) -> bool:
        """Whether an edge fails clearly more often than the other edges of its model."""
        spans = case.tally.spans(part, case.tally.forgiven)
        if not stands_above(spans, 0.0, self._rules.least_requests):
            return False
        model = case.prefill.worker.model
        rates = [
            other.tally.rate(part) if other.breaker.closed else 1.0
            for other in self._cases.values()
            if other is not case and _in_service(other.prefill, model) and _in_service(other.decode, model)
        ]
        edges = self._lineup_of(case.prefill).edges_in_service()
        return self._above(spans, baseline(rates, max(0, edges - 1 - len(rates))))

    def _above(self, spans: list[Count], usual: float | None) -> bool:
        # With nobody to compare with there is nobody to send the requests to, either.
        return usual is not None and stands_above(spans, usual, self._rules.least_requests)

    # --- who may be asked

    def troubled(self) -> bool:
        """Whether anything is benched: else choosing need not look."""
        return self.open_edges > 0 or self.open_members > 0

    def benched_edges(self) -> list[Edge]:
        """Edges whose breaker is not closed: at most MOST_EDGES."""
        return [edge for edge, case in self._cases.items() if not case.breaker.closed]

    def fit(self, prefill: Member, decodes: Sequence[Member], now: float) -> list[Member]:
        """Those of `decodes` that `prefill`, which admits, may be paired with: one trial a pair at most."""
        prefill_id, trial_taken = prefill.worker.worker_id, not prefill.breaker.closed
        fit = []
        for decode in decodes:
            case = self._cases.get((prefill_id, decode.worker.worker_id))
            if case is None or case.breaker.closed:
                if decode.breaker.closed or (not trial_taken and decode.breaker.admits(now)):
                    fit.append(decode)
            elif decode.breaker.closed and not trial_taken and case.breaker.admits(now):
                fit.append(decode)
        return fit

    def badness(self, prefill: Member, decode: Member) -> float:
        """How long a pair has been benched for in all, seconds: the longer, the more often it has failed."""
        case = self._cases.get((prefill.worker.worker_id, decode.worker.worker_id))
        return prefill.breaker.bench_s + decode.breaker.bench_s + (case.breaker.bench_s if case else 0.0)

    def edge_permit(self, edge: Edge, now: float) -> int:
        """A permit for an edge; of one that has not failed, for the breaker that it may get."""
        case = self._cases.get(edge)
        return FIRST_EPOCH if case is None else case.breaker.permit(now)

    # --- what is forgotten

    def forget(self, member: Member) -> None:
        """A worker has gone, and its edges with it."""
        for edge, case in list(self._cases.items()):
            if member is case.prefill or member is case.decode:
                self._drop(edge)
        if not member.breaker.closed:
            self.open_members -= 1

    def _drop(self, edge: Edge) -> None:
        if not self._cases.pop(edge).breaker.closed:
            self.open_edges -= 1

    def _sweep(self, now: float) -> None:
        """Forgets edges without a failure in the window; a part of a window later it looks again."""
        window_s = self._rules.window_s
        self._sweep_at = now + window_s / SPANS
        for edge, case in list(self._cases.items()):
            if case.failed_at <= now - window_s and case.breaker.closed:
                self._drop(edge)
        if not self._cases and not self.open_members and self._failed_at <= now - window_s:
            self.calm = True
            for member in self._members.values():
                member.streak = 0
