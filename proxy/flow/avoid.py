"""What one request has learned of its own failures: where another attempt should rather not go."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from proxy.roster import Role
from proxy.routing.member import Member
from proxy.routing.placement import Edge, Placement
from proxy.upstream.outcome import Failure, Outcome


class Avoid(Collection[Edge]):
    """Edges that failed, and all edges of workers that asked to be left alone for a while."""

    __slots__ = ("_edges", "_resting", "keep", "last")

    def __init__(self) -> None:
        self._edges: set[Edge] = set()
        self._resting: dict[str, float] = {}
        self.keep: Member | None = None
        """The half of the last pair that did not fail: its cache is warm."""
        self.last: Failure | None = None

    def learn(self, failure: Failure, placement: Placement, now: float) -> None:
        """Takes in how an attempt failed. `now`: monotonic seconds."""
        self.last = failure
        self._edges.add(placement.edge)
        if failure.role is None:
            self.keep = None
            return
        prefill, decode = placement.prefill, placement.decode
        # A decode that hears nothing of its prefill's bootstrap server tells of the prefill.
        of_decode = failure.role is Role.DECODE and failure.outcome is not Outcome.KV_BOOTSTRAP
        failed, self.keep = (decode, prefill) if of_decode else (prefill, decode)
        if failure.told_to_wait_s is not None:
            self._resting[failed.worker.worker_id] = now + failure.told_to_wait_s

    def rest_s(self, edge: Edge, now: float) -> float:
        """How long the workers of an edge still want to be left alone; 0: they may be asked."""
        return max(0.0, *(self._resting.get(worker_id, now) - now for worker_id in edge))

    def __contains__(self, edge: object) -> bool:
        """Whether an edge is avoided: a preference, not a ban."""
        if edge in self._edges:
            return True
        return isinstance(edge, tuple) and any(worker_id in self._resting for worker_id in edge)

    def __len__(self) -> int:
        """How much there is to avoid."""
        return len(self._edges) + len(self._resting)

    def __iter__(self) -> Iterator[Edge]:
        """The edges that failed."""
        return iter(self._edges)
