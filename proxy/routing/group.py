"""The workers of one model, and the rules by which pairs are made of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.roster import Role
from proxy.routing.breaker import BreakerRules
from proxy.routing.lineup import Lineup, PairingRules
from proxy.routing.member import Member
from proxy.routing.policies import Policy


@dataclass(frozen=True, slots=True)
class PoolRules:
    """How pairs are made."""

    prefill_policy: str = "least_loaded"
    decode_policy: str = "least_loaded"
    default_model: str | None = None
    max_in_flight_per_worker: int | None = None
    """None: each worker's own max_running_requests, where it tells."""
    slow_start_s: float = 10.0
    pairing: PairingRules = field(default_factory=PairingRules)
    breaker: BreakerRules = field(default_factory=BreakerRules)


_TOGETHER_S = 1.0  # why: a registry tells its workers a few hundred at a time, within milliseconds


class Group:
    """The workers of one model; None is the model of those that do not say."""

    __slots__ = ("_begun_at", "decode_policy", "lineup", "members", "model", "prefill_policy")

    def __init__(self, model: str | None, prefill_policy: Policy, decode_policy: Policy) -> None:
        self.model = model
        self.members: dict[str, Member] = {}
        self.prefill_policy = prefill_policy
        self.decode_policy = decode_policy
        self.lineup: Lineup | None = None
        """None: to be rebuilt."""
        self._begun_at = dict.fromkeys(Role, float("-inf"))

    def joins(self, role: Role, now: float) -> float:
        """From when on the share of one that comes now grows, monotonic seconds; -inf: it has all of it.

        A slow start spares one that comes to others, which take the rest. The first one has nobody to share
        with, nor have those that come with it, as all do when a proxy starts: there the slow ones would
        leave all to the first.
        """
        if not any(member.worker.role is role for member in self.members.values()):
            self._begun_at[role] = now
        return float("-inf") if now - self._begun_at[role] <= _TOGETHER_S else now
