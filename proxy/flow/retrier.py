"""Retries of all requests together: what one alone may do, and what the fleet can bear."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.flow.budget import BudgetRules, RetryBudget
from proxy.flow.deaths import DeathRules, Deaths
from proxy.flow.retry import GIVE_UP, GiveUp, Retry, RetryRules, decide
from proxy.roster import Role, Worker
from proxy.routing.placement import Placement
from proxy.telemetry.metrics import Metrics
from proxy.upstream.outcome import Failure, Outcome

_CUT_OFF = frozenset([Outcome.CONNECT, Outcome.RESET])
_BROKE_OFF = frozenset([Outcome.TRUNCATED, Outcome.TRUNCATED_MIDSTREAM])


@dataclass(frozen=True, slots=True)
class RetrierRules:
    """The bounds of one request's retries, and of all."""

    retry: RetryRules = field(default_factory=RetryRules)
    budget: BudgetRules = field(default_factory=BudgetRules)
    deaths: DeathRules = field(default_factory=DeathRules)
    longest_retry_after_s: float = 10.0
    """How long a worker's own Retry-After is waited for where no other worker is left."""


class Retrier:
    """Owns the budget, and the pace at which a dead worker's requests go elsewhere."""

    def __init__(
        self,
        rules: RetrierRules,
        rng: random.Random,
        open_to: Callable[[Worker], int],
        metrics: Metrics,
    ) -> None:
        """Makes one.

        Args:
            rules: the bounds.
            rng: chance, for the jitter.
            open_to: how many connections to a worker are open.
            metrics: counts the retries that the budget refuses.
        """
        self.rules = rules
        self.budget = RetryBudget(rules.budget)
        self._deaths = Deaths(rules.deaths)
        self._rng = rng
        self._open_to = open_to
        self._metrics = metrics

    def after(
        self, failure: Failure, attempts: int, placement: Placement, now: float, deadline: float
    ) -> Retry | GiveUp:
        """What to do about a failed attempt.

        Args:
            failure: how it failed.
            attempts: how many its request has made, this one included.
            placement: where it was made.
            now: monotonic seconds.
            deadline: of the request; no attempt begins after it.
        """
        decision = decide(failure, attempts, self.rules.retry, self._rng)
        if not isinstance(decision, Retry) or not decision.counted:
            return decision
        delay_s = decision.delay_s
        dead = self._died(failure, placement)
        if dead is not None:
            turn = self._deaths.turn(dead.worker_id, now)
            if turn.first:
                self.budget.charge(now)
            delay_s += turn.wait_s
        if now + delay_s >= deadline:
            return GIVE_UP
        if dead is None and not self.budget.spend(now):
            self._metrics.retries_refused += 1
            return GIVE_UP
        return Retry(delay_s, counted=True)

    def _died(self, failure: Failure, placement: Placement) -> Worker | None:
        """The worker that seems to have died; None if the failure is of another kind.

        An answer that broke off looks the same whether the worker has died or has dropped this
        one request (as 0.5.2 does when a KV transfer fails): only a dead one's other connections
        are gone as well.
        """
        member = placement.prefill if failure.role is Role.PREFILL else placement.decode
        if failure.outcome in _CUT_OFF:
            return member.worker
        if failure.outcome in _BROKE_OFF and not self._open_to(member.worker):
            return member.worker
        return None
