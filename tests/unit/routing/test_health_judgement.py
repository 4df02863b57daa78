"""Whom a failure speaks against, with whom he is compared, and what is forgotten."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.roster import Change, Role
from proxy.routing import health
from proxy.routing.breaker import BreakerRules, Settlement
from proxy.routing.placement import Edge
from proxy.routing.pool import Pool
from tests.unit.routing.desk import HandClock, desk, fleet, worker
from tests.unit.routing.test_health import (
    _RULES,
    BAD,
    FAILURE,
    SEVERED,
    SUCCESS,
    _bench,
    _cases,
    _chosen,
    _over,
    _settle,
)

IGNORED = Settlement.IGNORED


def _fit(pool: Pool, edge: Edge, clock: HandClock) -> bool:
    """Whether a pair may be tried now."""
    prefill, decode = pool.get(edge[0]), pool.get(edge[1])
    assert prefill is not None
    assert decode is not None
    return pool._health.fit(prefill, [decode], clock.now) == [decode]


# --- what counts


def test_while_nobody_has_failed_nothing_is_written_down() -> None:
    pool, _ = desk(fleet(1, 1), _RULES)
    _settle(pool, BAD, SUCCESS, times=10)
    assert [list(member.tally._parts) for member in pool.members()] == [[], []]
    assert not pool._health.troubled()


@pytest.mark.parametrize("bad", ["p0", "d0"])
def test_who_fails_in_one_request_of_seven_is_not_benched(bad: str) -> None:
    pool, _ = desk(fleet(3, 3), _RULES)
    edges = [(p, d) for p in ("p0", "p1", "p2") for d in ("d0", "d1", "d2") if bad in (p, d)]
    for settlement, times in ((FAILURE, 1), (SUCCESS, 150), (FAILURE, 25)):
        for edge in edges:
            _settle(pool, edge, settlement, times=times)
    assert (_bench(pool), pool.open_edges) == (set(), 0)


@pytest.mark.parametrize("bad", ["p0", "d0"])
def test_a_workers_successes_speak_for_it_over_edges_that_had_not_failed_yet(bad: str) -> None:
    pool, _ = desk(fleet(4, 4), _RULES)
    _settle(pool, ("p3", "d3"), FAILURE)
    edges = [(p, d) for p in ("p0", "p1", "p2") for d in ("d0", "d1", "d2") if bad in (p, d)]
    for settlement, times in ((SUCCESS, 100), (FAILURE, 7)):
        for edge in edges:
            _settle(pool, edge, settlement, times=times)
    assert _bench(pool) == set()


def test_what_proves_nothing_ends_no_row_of_failures() -> None:
    pool, _ = desk(fleet(1, 2), _RULES)
    _settle(pool, BAD, FAILURE, Role.DECODE, times=4)
    _settle(pool, BAD, IGNORED)
    _settle(pool, BAD, FAILURE, Role.DECODE)
    assert _bench(pool) == {"d0"}


def test_evidence_is_as_old_as_the_window_at_most() -> None:
    pool, clock = desk(fleet(3, 3), _RULES)
    for _ in range(2):
        for prefill in ("p0", "p1", "p2"):
            _settle(pool, (prefill, "d0"), FAILURE, times=2)
        clock.now += 61.0
    assert _bench(pool) == set()


def test_a_workers_own_failure_is_no_evidence_against_its_edge() -> None:
    pool, _ = desk(fleet(2, 2), _RULES)
    _settle(pool, BAD, FAILURE, Role.DECODE, times=3)
    assert _cases(pool) == 0
    _settle(pool, BAD, FAILURE)
    _settle(pool, BAD, SEVERED, Role.DECODE)
    assert pool.open_edges == 0


# --- compared with whom


def test_one_edge_of_two_is_compared_with_the_other() -> None:
    pool, _ = desk(fleet(1, 2), _RULES)
    _settle(pool, BAD, FAILURE, times=8)
    assert (_bench(pool), pool.open_edges) == (set(), 1)


def test_where_all_edges_fail_alike_none_is_benched() -> None:
    pool, _ = desk(fleet(2, 2), _RULES)
    for _ in range(60):
        for edge in ((p, d) for p in ("p0", "p1") for d in ("d0", "d1")):
            _settle(pool, edge, FAILURE)
            _settle(pool, edge, SUCCESS)
    assert (_bench(pool), pool.open_edges) == (set(), 0)


def test_edges_of_another_model_are_no_peers() -> None:
    others = [replace(one, worker_id=f"other-{one.worker_id}", model="other") for one in fleet(2, 2)]
    pool, _ = desk([*fleet(2, 2, model="this"), *others], _RULES)
    for prefill in ("other-p0", "other-p1"):
        for decode in ("other-d0", "other-d1"):
            _settle(pool, (prefill, decode), FAILURE, times=3)
    _settle(pool, BAD, FAILURE, times=8)
    assert pool.open_edges == 1


@pytest.mark.parametrize("role", [Role.PREFILL, Role.DECODE])
@pytest.mark.parametrize("benched", [True, False], ids=["benched", "unhealthy"])
def test_edges_of_workers_out_of_service_are_no_peers(role: Role, benched: bool) -> None:
    pool, _ = desk(fleet(4, 2) if role is Role.PREFILL else fleet(2, 4), _RULES)
    out = [f"{role.value[0]}{number}" for number in (2, 3)]
    for one in out:
        edges = [(one, d) if role is Role.PREFILL else (d.replace("d", "p"), one) for d in ("d0", "d1")]
        for edge in edges:
            _settle(pool, edge, FAILURE, times=3)
        if benched:
            _settle(pool, edges[0], FAILURE, role, times=5)
        else:
            pool.probed(one, ok=False, reason="no answer")
    assert _bench(pool) == (set(out) if benched else set())
    _settle(pool, BAD, FAILURE, times=8)
    assert pool.open_edges == 1


def test_a_worker_whose_peers_are_all_benched_is_not_benched_by_its_rate() -> None:
    pool, _ = desk(fleet(3, 3), _RULES)
    _settle(pool, ("p0", "d1"), FAILURE, Role.DECODE)
    for decode in ("d1", "d2"):
        for prefill in ("p0", "p1", "p2"):
            _settle(pool, (prefill, decode), SUCCESS, times=100)
        _settle(pool, ("p0", decode), FAILURE, Role.DECODE, times=5)
    assert _bench(pool) == {"d1", "d2"}
    for prefill in ("p0", "p1", "p2"):
        _settle(pool, (prefill, "d0"), FAILURE, times=20)
    assert "d0" not in _bench(pool)


def test_an_edge_whose_peers_are_all_benched_is_not_benched_by_its_rate() -> None:
    pool, _ = desk(fleet(1, 3), _RULES)
    for decode in ("d1", "d2"):
        _settle(pool, ("p0", decode), FAILURE)
        _settle(pool, ("p0", decode), SUCCESS, times=100)
        _settle(pool, ("p0", decode), SEVERED)
    _settle(pool, BAD, FAILURE, times=30)
    assert pool.open_edges == 2


def test_a_worker_found_guilty_takes_the_blame_from_its_edge() -> None:
    pool, clock = desk(fleet(3, 2), _RULES)
    _settle(pool, ("p0", "d1"), FAILURE, Role.DECODE, times=5)
    # While its only peer is benched there is nobody to compare it with.
    _settle(pool, ("p1", "d0"), FAILURE, times=4)
    _settle(pool, ("p2", "d0"), FAILURE, times=4)
    _settle(pool, BAD, FAILURE, times=7)
    assert _bench(pool) == {"d1"}
    clock.now += 10.0
    _settle(pool, ("p0", "d1"), SUCCESS)
    _settle(pool, BAD, FAILURE)
    assert (_bench(pool), pool.open_edges) == ({"d0"}, 0)


# --- trials


def test_a_trial_fails_by_the_own_failure_of_the_one_on_trial() -> None:
    pool, clock = desk(fleet(1, 2), _RULES)
    _settle(pool, BAD, FAILURE, Role.DECODE, times=5)
    clock.now += 10.0
    _settle(pool, BAD, FAILURE, Role.DECODE)
    assert not _fit(pool, BAD, clock)


def test_a_success_ends_a_trial_whomever_it_is_told_of() -> None:
    pool, clock = desk(fleet(1, 2), _RULES)
    _settle(pool, BAD, FAILURE, Role.DECODE, times=5)
    clock.now += 10.0
    _settle(pool, BAD, SUCCESS, Role.PREFILL)
    assert _bench(pool) == set()


def test_old_failures_do_not_convict_again_a_worker_that_came_back() -> None:
    pool, clock = desk(fleet(3, 3), _RULES)
    edges = [(prefill, "d0") for prefill in ("p0", "p1", "p2")]
    for edge in edges:
        _settle(pool, edge, FAILURE, times=6)
    assert _bench(pool) == {"d0"}
    clock.now += 10.0
    _settle(pool, BAD, SUCCESS)
    for edge in edges:
        _settle(pool, edge, FAILURE)
    assert _bench(pool) == set()
    _settle(pool, BAD, FAILURE, Role.DECODE, times=4)
    assert _bench(pool) == set(), "its row of failures begins anew, too"
    clock.now += 61.0
    for edge in edges:
        _settle(pool, edge, FAILURE, times=6)
    assert _bench(pool) == {"d0"}, "but new ones do"


def test_old_failures_do_not_bench_again_an_edge_that_came_back() -> None:
    pool, clock = desk(fleet(2, 2), _RULES)
    _settle(pool, BAD, FAILURE, times=8)
    clock.now += 1.0
    _settle(pool, BAD, SUCCESS)
    _settle(pool, BAD, FAILURE)
    assert pool.open_edges == 0


def test_a_trial_of_a_worker_leaves_an_edge_that_is_in_service_alone() -> None:
    pool, clock = desk(fleet(2, 2), _RULES)
    _settle(pool, BAD, FAILURE)
    _settle(pool, BAD, FAILURE, Role.DECODE, times=5)
    clock.now += 10.0
    assert _fit(pool, BAD, clock)
    _settle(pool, BAD, SUCCESS)
    assert (_bench(pool), pool.open_edges, pool.open_members) == (set(), 0, 0)


def test_own_failures_count_while_the_partner_is_on_trial() -> None:
    pool, clock = desk(fleet(2, 2), _RULES)
    _settle(pool, BAD, FAILURE, Role.DECODE, times=5)
    clock.now += 10.0
    _settle(pool, BAD, IGNORED, Role.PREFILL, times=5)
    _settle(pool, BAD, FAILURE, Role.PREFILL, times=4)
    assert _bench(pool) == {"d0"}
    _settle(pool, BAD, FAILURE, Role.PREFILL)
    assert _bench(pool) == {"d0", "p0"}


def test_a_success_beside_a_trial_ends_a_whole_row_of_failures() -> None:
    pool, clock = desk(fleet(2, 2), replace(_RULES, breaker=BreakerRules(least_requests=1000)))
    _settle(pool, ("p1", "d0"), FAILURE, Role.DECODE, times=5)
    _settle(pool, ("p0", "d1"), FAILURE, Role.PREFILL, times=4)
    clock.now += 10.0
    _settle(pool, BAD, SUCCESS)
    _settle(pool, ("p0", "d1"), FAILURE, Role.PREFILL, times=4)
    assert _bench(pool) == set()


@pytest.mark.parametrize("role", [Role.PREFILL, Role.DECODE])
def test_an_edge_and_one_of_its_ends_are_never_tried_together(role: Role) -> None:
    pool, clock = desk(fleet(2, 2), _RULES)
    _settle(pool, ("p0", "d1") if role is Role.PREFILL else ("p1", "d0"), FAILURE, role, times=5)
    _settle(pool, BAD, SEVERED)
    assert (len(_bench(pool)), pool.open_edges) == (1, 0), "of one that is benched nothing is evidence"
    pool, clock = desk(fleet(2, 2), _RULES)
    _settle(pool, BAD, SEVERED)
    _settle(pool, ("p0", "d1") if role is Role.PREFILL else ("p1", "d0"), FAILURE, role, times=5)
    clock.now += 10.0
    assert not _fit(pool, BAD, clock)
    assert _fit(pool, ("p0", "d1"), clock)
    assert _fit(pool, ("p1", "d0"), clock)


def test_a_session_that_dies_again_is_tried_soon_but_a_bad_edge_that_relapses_later() -> None:
    pool, clock = desk(fleet(2, 2), _RULES)
    for _ in range(2):
        _settle(pool, BAD, SEVERED)
        clock.now += 1.0
        assert _fit(pool, BAD, clock)
        _settle(pool, BAD, SUCCESS)
    pool, clock = desk(fleet(2, 2), _RULES)
    for bench_s in (1.0, 2.0):
        clock.now += 3.0  # what failed in the part of the window in which it came back is forgiven
        _settle(pool, BAD, FAILURE, times=8)
        clock.now += bench_s - 0.01
        assert not _fit(pool, BAD, clock)
        clock.now += 0.01
        assert _fit(pool, BAD, clock)
        _settle(pool, BAD, SUCCESS)


def test_the_badness_of_a_pair_is_that_of_its_three_parts() -> None:
    pool, _ = desk(fleet(2, 2), _RULES)
    _settle(pool, BAD, SEVERED)
    _settle(pool, ("p0", "d1"), FAILURE, Role.PREFILL, times=5)
    _settle(pool, ("p1", "d0"), FAILURE, Role.DECODE, times=5)
    p0, p1, d0, d1 = (pool.get(one) for one in ("p0", "p1", "d0", "d1"))
    assert p0 is not None
    assert p1 is not None
    assert d0 is not None
    assert d1 is not None
    badness = pool._health.badness
    assert (badness(p0, d0), badness(p0, d1), badness(p1, d0), badness(p1, d1)) == (21.0, 10.0, 10.0, 0.0)


# --- what is forgotten


def test_an_edge_is_remembered_for_a_window_from_its_last_failure() -> None:
    pool, clock = desk(fleet(2, 2), _RULES)
    for _ in range(2):
        _settle(pool, BAD, FAILURE)
        clock.now += 40.0
    _settle(pool, ("p1", "d1"), SUCCESS)
    assert _cases(pool) == 1


def test_the_edge_longest_without_a_failure_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MOST_EDGES", 2)
    pool, _ = desk(fleet(2, 2), _RULES)
    for edge in (BAD, ("p0", "d1"), BAD, ("p1", "d0")):
        _settle(pool, edge, FAILURE)
    assert set(pool._health._cases) == {BAD, ("p1", "d0")}


@pytest.mark.parametrize("leaver", ["p0", "d0"])
def test_who_leaves_takes_only_edges_of_its_own_along(leaver: str) -> None:
    pool, _ = desk(fleet(2, 2), _RULES)
    _settle(pool, BAD, SEVERED)
    _settle(pool, ("p1", "d1"), SEVERED)
    pool.apply([Change(leaver, None)])
    assert (set(pool._health._cases), pool.open_edges, pool.open_members) == ({("p1", "d1")}, 1, 0)


def test_who_has_left_is_not_benched() -> None:
    pool, _ = desk(fleet(1, 2), _RULES)
    stale = [_over(pool, BAD) for _ in range(5)]
    pool.apply([Change("d0", None)])
    for placement in stale:
        pool.settle(placement, Role.DECODE, FAILURE)
    assert pool.open_members == 0


def test_a_worker_benched_for_longer_than_a_window_still_comes_back() -> None:
    pool, clock = desk(fleet(1, 2), _RULES)
    _settle(pool, BAD, FAILURE, Role.DECODE, times=5)
    clock.now += 200.0
    _settle(pool, ("p0", "d1"), SUCCESS)
    _settle(pool, BAD, SUCCESS)
    assert _bench(pool) == set()
    assert BAD in _chosen(pool)


def test_after_a_clean_window_a_row_of_failures_begins_anew() -> None:
    pool, clock = desk(fleet(1, 2), _RULES)
    _settle(pool, BAD, FAILURE, Role.DECODE, times=4)
    clock.now += 61.0
    _settle(pool, ("p0", "d1"), SUCCESS)
    _settle(pool, BAD, FAILURE, Role.DECODE, times=4)
    assert _bench(pool) == set()


def test_answers_of_an_old_prefill_say_nothing_of_the_edge_of_the_new_one() -> None:
    pool, _ = desk(fleet(2, 2, instance="old"), _RULES)
    stale = [_over(pool, BAD) for _ in range(9)]
    pool.apply([Change("p0", worker(Role.PREFILL, 0, instance="new"))])
    _settle(pool, BAD, FAILURE)
    for placement in stale:
        pool.settle(placement, None, FAILURE)
    assert pool.open_edges == 0
