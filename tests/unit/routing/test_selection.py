from __future__ import annotations

from collections import Counter
from dataclasses import replace

from proxy.roster import Role
from proxy.routing.breaker import Settlement
from proxy.routing.group import PoolRules
from proxy.routing.member import Member
from proxy.routing.placement import Edge, Placement
from proxy.routing.pool import Pool
from tests.unit.routing.desk import desk, fleet

_RULES = PoolRules("round_robin", "round_robin", slow_start_s=0.0)
_CAPPED = replace(_RULES, max_in_flight_per_worker=1)


def _choose(pool: Pool, avoid: set[Edge] | None = None, keep: Member | None = None) -> Placement:
    placement = pool.choose(pool.group_for(None), avoid or set(), keep)
    assert placement is not None
    return placement


def _sever(pool: Pool, *edges: Edge) -> None:
    for edge in edges:
        placement = Placement(_member(pool, edge[0]), _member(pool, edge[1]), pool, pool._now())
        pool.settle(placement, None, Settlement.SEVERED)
        placement.release()


def _member(pool: Pool, worker_id: str) -> Member:
    member = pool.get(worker_id)
    assert member is not None
    return member


def _edges(pool: Pool, avoid: set[Edge], keep: str) -> set[Edge]:
    return {_choose(pool, avoid, _member(pool, keep)).edge for _ in range(12)}


def test_the_half_to_keep_serves_again_with_another_partner() -> None:
    pool, _ = desk(fleet(3, 3), _RULES)
    failed = {("p0", "d0")}
    assert _edges(pool, failed, "p0") == {("p0", "d1"), ("p0", "d2")}
    assert _edges(pool, failed, "d0") == {("p1", "d0"), ("p2", "d0")}


def test_what_has_failed_with_two_partners_is_kept_no_longer() -> None:
    pool, _ = desk(fleet(3, 3), _RULES)
    assert {p for p, _ in _edges(pool, {("p0", "d0"), ("p0", "d1")}, "p0")} == {"p0", "p1", "p2"}


def test_a_full_one_is_not_kept_and_not_waited_for() -> None:
    pool, _ = desk(fleet(2, 3), _CAPPED)
    for keep in ("p0", "d0"):
        busy = Placement(_member(pool, "p0"), _member(pool, "d0"), pool, 0.0)
        edge = _choose(pool, {("p0", "d0")}, _member(pool, keep))
        assert edge.edge[0] == "p1"
        assert edge.edge[1] != "d0"
        busy.release()
        edge.release()


def test_a_benched_one_is_not_kept() -> None:
    pool, _ = desk(fleet(2, 2), _RULES)
    _sever(pool, ("p0", "d1"))
    assert {p for p, _ in _edges(pool, {("p0", "d0")}, "p0")} == {"p1"}
    for _ in range(5):
        placement = _choose(pool)
        pool.settle(placement, Role.PREFILL, Settlement.IGNORED)
    _member(pool, "d0").breaker.open(pool._now())
    pool._health.open_members += 1
    assert {d for _, d in _edges(pool, {("p0", "d0")}, "d0")} == {"d1"}


def test_one_that_has_gone_is_not_kept() -> None:
    pool, _ = desk(fleet(2, 2), _RULES)
    gone = {role: desk(fleet(1, 1))[0].get(role) for role in ("p0", "d0")}
    for member in gone.values():
        chosen = _choose(pool, {("p0", "d0")}, member)
        assert member not in (chosen.prefill, chosen.decode)


def test_an_edge_that_failed_for_this_request_comes_before_a_benched_one() -> None:
    pool, _ = desk(fleet(1, 2), _RULES)
    _sever(pool, ("p0", "d1"))
    assert {_choose(pool, {("p0", "d0")}).edge for _ in range(6)} == {("p0", "d0")}


def test_a_benched_edge_is_not_taken_because_the_others_are_full() -> None:
    pool, _ = desk(fleet(2, 2), _CAPPED)
    _sever(pool, ("p0", "d0"))
    first = _choose(pool)
    second = pool.choose(pool.group_for(None))
    if second is None or first.edge == ("p1", "d1"):
        assert second is None
        first.release()
    assert ("p0", "d0") not in {first.edge, None if second is None else second.edge}


def test_a_full_but_trusted_pair_is_waited_for_rather_than_a_benched_one_taken() -> None:
    pool, _ = desk(fleet(1, 2), replace(_RULES, max_in_flight_per_worker=2))
    _sever(pool, ("p0", "d0"))
    decode = _member(pool, "d1")
    decode.cap = 1
    _choose(pool)
    assert pool.choose(pool.group_for(None)) is None


def test_when_all_edges_are_benched_the_least_bad_is_tried() -> None:
    pool, clock = desk(fleet(1, 2), _RULES)
    _sever(pool, ("p0", "d0"), ("p0", "d1"))
    assert Counter(_choose(pool).edge for _ in range(10)) == {("p0", "d0"): 5, ("p0", "d1"): 5}
    clock.now += 1.0
    trial = _choose(pool)
    pool.settle(trial, None, Settlement.FAILURE)
    other = {("p0", "d0"), ("p0", "d1")} - {trial.edge}
    _choose(pool)  # the other one's trial
    assert {_choose(pool).edge for _ in range(6)} == other


def test_the_least_bad_is_rather_one_that_this_request_has_not_tried() -> None:
    pool, _ = desk(fleet(1, 2), _RULES)
    _sever(pool, ("p0", "d0"), ("p0", "d1"))
    assert {_choose(pool, {("p0", "d0")}).edge for _ in range(6)} == {("p0", "d1")}


def test_the_success_of_a_last_resort_ends_the_bench() -> None:
    pool, _ = desk(fleet(1, 1), _RULES)
    _sever(pool, ("p0", "d0"))
    assert pool.open_edges == 1
    pool.settle(_choose(pool), None, Settlement.SUCCESS)
    assert pool.open_edges == 0


def test_the_last_resort_keeps_to_the_caps() -> None:
    pool, _ = desk(fleet(1, 1), _CAPPED)
    _sever(pool, ("p0", "d0"))
    placement = _choose(pool)
    assert pool.choose(pool.group_for(None)) is None
    placement.release()
    _choose(pool)
