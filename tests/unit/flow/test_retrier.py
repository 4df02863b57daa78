"""Whether an attempt is made again: alone, and with all others in mind."""

from __future__ import annotations

import random
from typing import Any

import pytest

from proxy.flow.avoid import Avoid
from proxy.flow.budget import BudgetRules
from proxy.flow.deaths import DeathRules
from proxy.flow.retrier import Retrier, RetrierRules
from proxy.flow.retry import GIVE_UP, GiveUp, Retry, RetryRules, decide
from proxy.roster import Role, Worker
from proxy.routing.placement import Placement
from proxy.telemetry.metrics import Metrics
from proxy.upstream.outcome import Failure, Outcome
from tests.unit.routing.desk import desk, fleet

NEVER = float("inf")
NOW = 100_000.0
POOL, _ = desk(fleet(2, 2))


def placement() -> Placement:
    found = POOL.choose(POOL.group_for(None))
    assert found is not None
    found.release()
    return found


def failure(outcome: Outcome, role: Role = Role.DECODE, **more: Any) -> Failure:
    return Failure(outcome, "so it was", 502, role, **more)


def retrier(
    *, floor_per_s: float = 0.0, open_to: int = 1, per_s: float = 100.0, **retry: Any
) -> tuple[Retrier, Metrics]:
    rules = RetrierRules(
        retry=RetryRules(**{"initial_backoff_s": 0.0, "max_backoff_s": 0.0, **retry}),
        budget=BudgetRules(ratio=0.0, floor_per_s=floor_per_s, window_s=10.0),
        deaths=DeathRules(redispatch_per_s=per_s),
    )
    metrics = Metrics()

    def connections(worker: Worker) -> int:
        return open_to

    return Retrier(rules, random.Random(3), connections, metrics), metrics


SICK = [
    Outcome.ENGINE_ERROR,
    Outcome.REJECTED,
    Outcome.FIRST_TOKEN_TIMEOUT,
    Outcome.STALL,
    Outcome.KV_TRANSFER,
    Outcome.KV_BOOTSTRAP,
    Outcome.EMPTY,
    Outcome.LENGTH_ZERO,
    Outcome.TRUNCATED,
]


@pytest.mark.parametrize("outcome", SICK)
def test_a_sick_fleet_is_retried_as_far_as_the_budget_goes(outcome: Outcome) -> None:
    one, metrics = retrier(floor_per_s=0.3)
    said = [one.after(failure(outcome), 1, placement(), NOW, NEVER) for _ in range(5)]
    assert [isinstance(decision, Retry) for decision in said] == [True] * 3 + [False] * 2
    assert metrics.retries_refused == 2


@pytest.mark.parametrize("outcome", [Outcome.CONNECT, Outcome.RESET])
def test_a_death_is_charged_once_and_its_requests_are_paced_not_refused(outcome: Outcome) -> None:
    one, metrics = retrier(floor_per_s=0.2, per_s=100.0)
    said = [one.after(failure(outcome), 1, placement_on("d0"), NOW, NEVER) for _ in range(100)]
    waits = [decision.delay_s for decision in said if isinstance(decision, Retry)]
    assert len(waits) == 100
    assert waits[-1] == pytest.approx(0.9)
    assert one.budget.left(NOW) == 1
    assert metrics.retries_refused == 0


def placement_on(decode: str) -> Placement:
    while (found := placement()).edge[1] != decode:
        pass
    return found


def test_answers_that_broke_off_are_a_death_only_if_no_connection_is_left() -> None:
    for outcome in (Outcome.TRUNCATED, Outcome.TRUNCATED_MIDSTREAM):
        dead, _ = retrier(open_to=0)
        assert isinstance(dead.after(failure(outcome), 1, placement(), NOW, NEVER), Retry)
        alive, _ = retrier(open_to=3)
        assert isinstance(alive.after(failure(outcome), 1, placement(), NOW, NEVER), GiveUp)


def test_a_race_with_a_closing_connection_costs_nothing() -> None:
    one, _ = retrier()
    for _ in range(10):
        decision = one.after(failure(Outcome.STALE_CONNECTION), 9, placement(), NOW, NEVER)
        assert decision == Retry(0.0, counted=False)
    assert one.budget.left(NOW) == 0


def test_no_attempt_begins_after_the_deadline() -> None:
    one, _ = retrier(floor_per_s=10.0, initial_backoff_s=1.0, max_backoff_s=1.0)
    for _ in range(50):
        decision = one.after(failure(Outcome.ENGINE_ERROR), 1, placement(), NOW, NOW + 0.5)
        assert isinstance(decision, GiveUp) or decision.delay_s < 0.5


def test_a_retry_that_its_deadline_forbids_costs_no_budget() -> None:
    one, _ = retrier(floor_per_s=0.1)
    assert one.after(failure(Outcome.ENGINE_ERROR), 1, placement(), NOW, NOW) is GIVE_UP
    assert one.budget.left(NOW) == 1


def test_what_the_operator_has_switched_off_is_not_made_again() -> None:
    one, metrics = retrier(floor_per_s=1.0, never=frozenset([Outcome.ENGINE_ERROR]))
    assert one.after(failure(Outcome.ENGINE_ERROR), 1, placement(), NOW, NEVER) is GIVE_UP
    assert isinstance(one.after(failure(Outcome.KV_TRANSFER), 1, placement(), NOW, NEVER), Retry)
    assert metrics.retries_refused == 0


@pytest.mark.parametrize("outcome", [Outcome.BAD_REQUEST, Outcome.DEADLINE, Outcome.ABORTED])
def test_what_can_do_no_better_is_not_made_again(outcome: Outcome) -> None:
    assert decide(failure(outcome), 1, RetryRules(), random.Random(1)) is GIVE_UP


def test_the_backoff_has_full_jitter_and_a_bound() -> None:
    rng, rules = random.Random(1), RetryRules(attempts=9, initial_backoff_s=0.1, max_backoff_s=0.3)
    for attempts, longest in ((1, 0.1), (2, 0.2), (3, 0.3), (8, 0.3)):
        said = [decide(failure(Outcome.EMPTY), attempts, rules, rng) for _ in range(300)]
        waits = [one.delay_s for one in said if isinstance(one, Retry)]
        assert len(waits) == 300
        assert 0 <= min(waits) < longest * 0.1
        assert longest * 0.9 < max(waits) <= longest
    assert decide(failure(Outcome.EMPTY), 9, rules, rng) is GIVE_UP


def test_after_a_decodes_failure_the_prefill_is_kept_and_the_reverse() -> None:
    avoid, where = Avoid(), placement()
    avoid.learn(failure(Outcome.ENGINE_ERROR, Role.DECODE), where, NOW)
    assert avoid.keep is where.prefill
    avoid.learn(failure(Outcome.ENGINE_ERROR, Role.PREFILL), where, NOW)
    assert avoid.keep is where.decode
    assert where.edge in avoid
    assert list(avoid) == [where.edge]


def test_a_worker_that_said_retry_after_is_avoided_on_all_its_edges_and_waited_for_on_its_own() -> None:
    avoid, where = Avoid(), placement_on("d0")
    avoid.learn(failure(Outcome.REJECTED, told_to_wait_s=3), where, NOW)
    assert {("p0", "d0") in avoid, ("p1", "d0") in avoid} == {True}
    other = ("p1" if where.edge[0] == "p0" else "p0", "d1")
    assert other not in avoid
    assert avoid.rest_s(("p1", "d0"), NOW + 1) == pytest.approx(2)
    assert avoid.rest_s(other, NOW) == 0
    assert avoid.rest_s(where.edge, NOW + 4) == 0


@pytest.mark.parametrize(
    ("outcome", "role", "kept"),
    [
        (Outcome.KV_TRANSFER, Role.DECODE, Role.PREFILL),
        (Outcome.ENGINE_ERROR, Role.PREFILL, Role.DECODE),
        # The bootstrap server that decode misses is its prefill's: another prefill has another one.
        (Outcome.KV_BOOTSTRAP, Role.DECODE, Role.DECODE),
        (Outcome.KV_BOOTSTRAP, Role.PREFILL, Role.DECODE),
    ],
)
def test_the_half_that_did_not_fail_is_kept(outcome: Outcome, role: Role, kept: Role) -> None:
    avoid, where = Avoid(), placement()
    avoid.learn(failure(outcome, role), where, NOW)
    assert avoid.keep is (where.prefill if kept is Role.PREFILL else where.decode)
    assert where.edge in avoid
