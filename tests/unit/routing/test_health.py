from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.roster import Change, Role
from proxy.routing import health
from proxy.routing.breaker import BreakerRules, Settlement
from proxy.routing.group import PoolRules
from proxy.routing.placement import Edge, Placement
from proxy.routing.pool import Pool
from tests.unit.routing.desk import HandClock, desk, fleet, worker

_RULES = PoolRules("round_robin", "round_robin", slow_start_s=0.0)


def _over(pool: Pool, edge: Edge) -> Placement:
    """An attempt over that edge, whatever the pool would choose."""
    prefill, decode = pool.get(edge[0]), pool.get(edge[1])
    assert prefill is not None
    assert decode is not None
    return Placement(prefill, decode, pool, pool._now())


def _settle(pool: Pool, edge: Edge, settlement: Settlement, role: Role | None = None, times: int = 1) -> None:
    for _ in range(times):
        placement = _over(pool, edge)
        pool.settle(placement, role, settlement)
        placement.release()


def _chosen(pool: Pool, times: int = 40) -> set[Edge]:
    """What is chosen by so many requests that all go well."""
    edges = set()
    for _ in range(times):
        placement = pool.choose(pool.group_for(None))
        assert placement is not None
        edges.add(placement.edge)
        placement.release()
    return edges


def _bench(pool: Pool) -> set[str]:
    return {member.worker.worker_id for member in pool.members() if not member.breaker.closed}


def _cases(pool: Pool) -> int:
    return len(pool._health._cases)


FAILURE, SUCCESS, SEVERED = Settlement.FAILURE, Settlement.SUCCESS, Settlement.SEVERED
BAD: Edge = ("p0", "d0")


def _severed() -> tuple[Pool, HandClock]:
    pool, clock = desk(fleet(2, 2), _RULES)
    _settle(pool, BAD, SEVERED)
    return pool, clock


def test_a_dead_session_benches_its_edge_at_once_and_no_worker() -> None:
    pool, _ = _severed()
    assert pool.open_edges == 1
    assert _bench(pool) == set()
    assert _chosen(pool) == {("p0", "d1"), ("p1", "d0"), ("p1", "d1")}


def test_a_dead_session_is_tried_after_one_second_then_two_then_four() -> None:
    pool, clock = _severed()
    for bench_s in (1.0, 2.0, 4.0):
        clock.now += bench_s - 0.01
        assert BAD not in _chosen(pool)
        clock.now += 0.01
        trial = _over(pool, BAD)
        assert BAD not in _chosen(pool), "one trial at a time"
        pool.settle(trial, None, FAILURE)
        trial.release()
    clock.now += 8.0
    _settle(pool, BAD, SUCCESS)
    assert pool.open_edges == 0
    assert BAD in _chosen(pool)


def test_a_trial_whose_client_leaves_is_made_again() -> None:
    pool, clock = _severed()
    clock.now += 1.0
    trial = _over(pool, BAD)
    pool.withdraw(trial)
    trial.release()
    assert BAD in _chosen(pool)


def test_an_edges_trial_is_not_failed_by_a_workers_own_failure() -> None:
    pool, clock = _severed()
    clock.now += 1.0
    _settle(pool, BAD, FAILURE, Role.DECODE)
    assert BAD in _chosen(pool)


@pytest.mark.parametrize("failures", [1, 7])
def test_a_few_failures_bench_no_edge(failures: int) -> None:
    pool, _ = desk(fleet(2, 2), _RULES)
    _settle(pool, BAD, FAILURE, times=failures)
    assert pool.open_edges == 0


def test_an_edge_that_always_fails_is_benched() -> None:
    pool, _ = desk(fleet(2, 2), _RULES)
    _settle(pool, BAD, FAILURE, times=8)
    assert pool.open_edges == 1
    assert _bench(pool) == set()


def test_an_edge_without_peers_is_never_benched_by_its_rate() -> None:
    pool, _ = desk(fleet(1, 1), _RULES)
    _settle(pool, BAD, FAILURE, times=200)
    assert pool.open_edges == 0
    assert _bench(pool) == set()


def test_an_edge_is_compared_only_with_edges_that_may_be() -> None:
    both = [
        *fleet(1, 1, engine_version="0.5.2"),
        worker(Role.PREFILL, 1, engine_version="0.5.23"),
        worker(Role.DECODE, 1, engine_version="0.5.23"),
    ]
    pool, _ = desk(both, _RULES)
    for _ in range(60):
        _settle(pool, ("p1", "d1"), FAILURE)
        _settle(pool, ("p1", "d1"), SUCCESS)
        _settle(pool, BAD, FAILURE)
        _settle(pool, BAD, SUCCESS)
    assert pool.open_edges == 0


@pytest.mark.parametrize("bad", ["p0", "d0"])
def test_a_worker_whose_edges_all_fail_is_convicted_and_its_partners_are_not(bad: str) -> None:
    pool, _ = desk(fleet(3, 3), _RULES)
    for _ in range(8):
        for edge in ((p, d) for p in ("p0", "p1", "p2") for d in ("d0", "d1", "d2")):
            _settle(pool, edge, FAILURE if bad in edge else SUCCESS)
    assert _bench(pool) == {bad}
    assert pool.open_members == 1
    assert not any(bad in edge for edge in _chosen(pool))


def test_a_convicted_worker_comes_back_by_one_good_trial() -> None:
    pool, clock = desk(fleet(1, 2), _RULES)
    _settle(pool, BAD, FAILURE, Role.DECODE, times=5)
    assert _bench(pool) == {"d0"}
    clock.now += 10.0
    _settle(pool, BAD, FAILURE)
    assert _chosen(pool) == {("p0", "d1")}, "its trial failed, though nobody was blamed by name"
    clock.now += 10.0
    _settle(pool, BAD, FAILURE, Role.PREFILL)
    assert BAD in _chosen(pool, 2), "its partner's own failure proves nothing of it"
    _settle(pool, BAD, SUCCESS)
    clock.now += 10.0
    _settle(pool, BAD, SUCCESS)
    assert _bench(pool) == set()
    assert pool.open_members == 0


def test_a_success_ends_a_row_of_failures() -> None:
    pool, _ = desk(fleet(1, 2), replace(_RULES, breaker=BreakerRules(least_requests=1000)))
    for _ in range(3):
        _settle(pool, BAD, FAILURE, Role.DECODE, times=4)
        assert _bench(pool) == set()
        _settle(pool, BAD, SUCCESS)


def test_a_success_with_one_on_trial_ends_a_row_of_failures_too() -> None:
    pool, clock = desk(fleet(2, 2), _RULES)
    _settle(pool, ("p1", "d0"), FAILURE, Role.DECODE, times=5)
    _settle(pool, ("p0", "d1"), FAILURE, Role.PREFILL, times=4)
    clock.now += 10.0
    _settle(pool, BAD, SUCCESS)
    _settle(pool, ("p0", "d1"), FAILURE, Role.PREFILL)
    assert _bench(pool) == set()


def test_one_that_came_back_has_a_clean_slate() -> None:
    pool, clock = desk(fleet(1, 2), _RULES)
    before = [_over(pool, BAD) for _ in range(5)]
    _settle(pool, BAD, FAILURE, Role.DECODE, times=5)
    clock.now += 10.0
    _settle(pool, BAD, SUCCESS)
    _settle(pool, BAD, FAILURE, Role.DECODE)
    assert _bench(pool) == set()
    _settle(pool, BAD, SUCCESS)
    for placement in before:
        pool.settle(placement, Role.DECODE, FAILURE)
    assert _bench(pool) == set(), "what was sent before its bench says nothing of it now"


def test_two_on_trial_are_never_paired() -> None:
    pool, clock = desk(fleet(2, 2), _RULES)
    _settle(pool, BAD, FAILURE, Role.DECODE, times=5)
    _settle(pool, BAD, FAILURE, Role.PREFILL, times=5)
    assert _bench(pool) == {"p0", "d0"}
    clock.now += 10.0
    trials = [placement for placement in (pool.choose(pool.group_for(None)) for _ in range(12)) if placement]
    assert {("p0", "d1"), ("p1", "d0"), ("p1", "d1")} == {placement.edge for placement in trials}


@pytest.mark.parametrize("settlement", [Settlement.IGNORED])
def test_what_proves_nothing_changes_nothing(settlement: Settlement) -> None:
    pool, _ = desk(fleet(1, 2), _RULES)
    for role in (None, Role.PREFILL, Role.DECODE):
        _settle(pool, BAD, settlement, role, times=100)
    assert (pool.open_edges, pool.open_members, _cases(pool)) == (0, 0, 0)
    assert pool._health.calm


def test_switched_off_it_benches_nobody() -> None:
    pool, _ = desk(fleet(2, 2), replace(_RULES, breaker=BreakerRules(enabled=False)))
    for role in (None, Role.PREFILL, Role.DECODE):
        for settlement in (FAILURE, SEVERED):
            _settle(pool, BAD, settlement, role, times=50)
    assert (pool.open_edges, pool.open_members) == (0, 0)
    assert BAD in _chosen(pool)


def test_an_edge_is_forgotten_once_it_has_been_clean_for_a_window() -> None:
    pool, clock = desk(fleet(2, 2), _RULES)
    _settle(pool, BAD, FAILURE)
    assert _cases(pool) == 1
    clock.now += 59.0
    _settle(pool, BAD, SUCCESS)
    assert _cases(pool) == 1
    clock.now += 4.0
    _settle(pool, BAD, SUCCESS)
    assert _cases(pool) == 0
    assert pool._health.calm


def test_a_row_of_failures_is_forgotten_after_a_clean_window() -> None:
    pool, clock = desk(fleet(1, 2), _RULES)
    _settle(pool, BAD, FAILURE, Role.DECODE, times=4)
    clock.now += 61.0
    _settle(pool, ("p0", "d1"), SUCCESS)
    _settle(pool, BAD, FAILURE, Role.DECODE)
    assert _bench(pool) == set()


def test_an_open_edge_is_not_forgotten_however_long_nobody_tries_it() -> None:
    pool, clock = _severed()
    clock.now += 1000.0
    _settle(pool, ("p1", "d1"), SUCCESS)
    assert pool.open_edges == 1
    assert not pool._health.calm


def test_the_edges_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MOST_EDGES", 5)
    pool, _ = desk(fleet(4, 4), _RULES)
    edges = [(f"p{p}", f"d{d}") for p in range(4) for d in range(4)]
    for edge in edges:
        _settle(pool, edge, SEVERED)
        assert _cases(pool) <= 5
    assert pool.open_edges == 5


def test_a_worker_that_leaves_takes_its_edges_and_its_bench_along() -> None:
    pool, _ = _severed()
    _settle(pool, ("p1", "d0"), FAILURE, Role.DECODE, times=5)
    assert (pool.open_edges, pool.open_members) == (1, 1)
    stale = _over(pool, BAD)
    pool.apply([Change("d0", None)])
    assert (pool.open_edges, pool.open_members, _cases(pool)) == (0, 0, 0)
    pool.settle(stale, None, SEVERED)
    pool.settle(stale, Role.DECODE, SUCCESS)
    assert (pool.open_edges, pool.open_members, _cases(pool)) == (0, 0, 0)


def test_answers_of_an_old_process_do_not_close_the_edge_of_the_new_one() -> None:
    pool, _ = desk(fleet(1, 2, instance="old"), _RULES)
    _settle(pool, BAD, SEVERED)
    stale = _over(pool, BAD)
    new = worker(Role.DECODE, 0, instance="new")
    pool.apply([Change("d0", new)])
    assert pool.open_edges == 0
    _settle(pool, BAD, SEVERED)
    pool.settle(stale, None, SUCCESS)
    assert pool.open_edges == 1
