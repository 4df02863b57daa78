"""A worker as the pool sees it: what it said of itself, and what we have seen of it."""

from __future__ import annotations

from proxy.roster import Origin, State, Worker
from proxy.routing.breaker import Breaker, BreakerRules
from proxy.routing.evidence import Tally
from proxy.routing.progress import Progress


class Member:
    """Mutable state of one worker; only the pool changes it."""

    __slots__ = (
        "breaker",
        "cap",
        "in_flight",
        "joined_at",
        "last_ok_at",
        "probe_ok",
        "probe_reason",
        "progress",
        "slow_start_s",
        "streak",
        "tally",
        "worker",
    )

    def __init__(
        self, worker: Worker, rules: BreakerRules, cap: int | None, joined_at: float, slow_start_s: float
    ) -> None:
        self.worker = worker
        self.breaker = Breaker(rules.open_s, rules.open_s, rules.window_s)
        self.streak = 0
        """Failures of its own since its last success."""
        self.tally = Tally()
        """Its requests and failures; counted only while somebody has failed."""
        self.cap = cap
        """Requests in flight at most; None is no limit."""
        self.in_flight = 0
        self.joined_at = joined_at
        """Monotonic seconds; -inf for a member that needs no slow start."""
        self.slow_start_s = slow_start_s
        self.last_ok_at = float("-inf")
        """Monotonic seconds of the last good answer to a real request or a probe."""
        self.progress = Progress()
        self.probe_ok: bool | None = None
        """None until probed."""
        self.probe_reason = ""
        """Why the last failed probe failed."""

    @property
    def standing_by(self) -> str | None:
        """Why it gets no new request, breakers and caps aside; None if it may."""
        if self.worker.state is not State.READY:
            return self.worker.state.value
        if self.probe_ok is False:
            return f"unhealthy: {self.probe_reason}"
        if self.probe_ok is None and self.worker.origin is Origin.SNAPSHOT:
            return "from the snapshot, not probed yet"
        return None

    @property
    def full(self) -> bool:
        """Whether its cap is reached."""
        return self.cap is not None and self.in_flight >= self.cap

    def share(self, now: float) -> float:
        """The part of the traffic that it should get: its weight, ramped up in its first seconds."""
        age = now - self.joined_at
        if age >= self.slow_start_s:
            return self.worker.weight
        # A tenth at least: with none at all nobody would ever learn that it works.
        return self.worker.weight * max(0.1, age / self.slow_start_s)

    def load(self, now: float) -> float:
        """Requests in flight, the one to come included, per share."""
        return (self.in_flight + 1) / self.share(now)
