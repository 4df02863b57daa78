"""The workers of one model, and which prefill may work with which decode."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from proxy.roster import Role, Worker
from proxy.routing.member import Member

_Kind = tuple[str | None, str | None, int | None]


@dataclass(frozen=True, slots=True)
class PairingRules:
    """Which workers may work together."""

    require_equal_tp: bool = False
    compatible_versions: frozenset[frozenset[str]] = frozenset()
    """Engine versions that are known to work with each other, two by two."""

    def allow(self, prefill: Worker, decode: Worker) -> bool:
        """Whether these two may be paired; what is unknown pairs with all."""
        mine, theirs = prefill.engine_version, decode.engine_version
        if mine and theirs and mine != theirs and frozenset((mine, theirs)) not in self.compatible_versions:
            return False
        mine, theirs = prefill.transfer_backend, decode.transfer_backend
        if mine and theirs and mine != theirs:
            return False
        if self.require_equal_tp and prefill.tp_size and decode.tp_size:
            return prefill.tp_size == decode.tp_size
        return True


class Lineup:
    """Who may be asked for one model now; rebuilt whenever somebody comes, goes or changes."""

    __slots__ = ("_shared", "capped", "decodes", "partners", "prefills")

    def __init__(self, members: Iterable[Member], rules: PairingRules) -> None:
        fit = [member for member in members if member.standing_by is None]
        decodes = [member for member in fit if member.worker.role is Role.DECODE]
        # Workers of one kind have the same partners, and a fleet has few kinds.
        of_kind: dict[_Kind, list[Member]] = {}
        self.partners: dict[Member, list[Member]] = {}
        """The decodes that a prefill may work with, at least one; prefills of one kind share one list."""
        for member in fit:
            if member.worker.role is Role.PREFILL:
                kind = _kind(member.worker)
                partners = of_kind.get(kind)
                if partners is None:
                    partners = of_kind[kind] = [d for d in decodes if rules.allow(member.worker, d.worker)]
                if partners:
                    self.partners[member] = partners
        self._shared = list(of_kind.values())
        self.prefills = list(self.partners)
        """Those that have a partner."""
        self.decodes = decodes
        self.capped = any(member.cap is not None for member in fit)

    def edges_in_service(self) -> int:
        """How many edges there are between workers that are not benched."""
        of_kind = {id(shared): sum(d.breaker.closed for d in shared) for shared in self._shared}
        return sum(of_kind[id(self.partners[member])] for member in self.prefills if member.breaker.closed)


def _kind(worker: Worker) -> _Kind:
    return worker.engine_version, worker.transfer_backend, worker.tp_size


def missing(members: Iterable[Member], lineup: Lineup, model: str | None) -> str:
    """Why there is no pair, in words that tell an operator where to look."""
    of_model = f" of model {model!r}" if model else ""
    known = list(members)
    for role, fit in ((Role.PREFILL, lineup.prefills), (Role.DECODE, lineup.decodes)):
        of_role = [member for member in known if member.worker.role is role]
        if not of_role:
            return f"no {role} worker{of_model} is known"
        standing_by = [f"{m.worker.worker_id} ({m.standing_by})" for m in of_role if m.standing_by]
        if not fit and len(standing_by) == len(of_role):
            return f"no {role} worker{of_model} is ready: {', '.join(standing_by[:5])}"
    return f"no prefill and decode worker{of_model} may work together: engine versions, backends or TP differ"


def unequal_tp(workers: Iterable[Worker]) -> str | None:
    """A warning if workers of one model differ in tensor parallelism: it works, but slower on most models."""
    sizes: dict[str | None, set[int]] = {}
    for worker in workers:
        if worker.tp_size is not None and worker.role is not Role.REGULAR:
            sizes.setdefault(worker.model, set()).add(worker.tp_size)
    uneven = {model: sorted(found) for model, found in sizes.items() if len(found) > 1}
    if not uneven:
        return None
    told = "; ".join(f"{model or 'unknown model'}: {found}" for model, found in uneven.items())
    return f"workers of unequal tensor parallelism are paired ({told}): KV transfers between them are slower"
