from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from proxy.errors import NoPair, UnknownModel
from proxy.roster import Change, Origin, Role, State
from proxy.routing.breaker import BreakerRules, Settlement
from proxy.routing.group import PoolRules
from proxy.routing.placement import Placement
from proxy.routing.pool import Pool
from tests.unit.routing.desk import desk, fleet, worker

_ROUND_ROBIN = PoolRules(prefill_policy="round_robin", decode_policy="round_robin", slow_start_s=0.0)
_TOUCHY = replace(_ROUND_ROBIN, breaker=BreakerRules(failures=1, open_s=10.0, edge_open_s=10.0))


def _choose(
    pool: Pool, model: str | None = None, avoid: frozenset[tuple[str, str]] = frozenset()
) -> Placement:
    placement = pool.choose(pool.group_for(model), avoid)
    assert placement is not None
    return placement


def _fail(pool: Pool, placement: Placement, role: Role | None) -> None:
    pool.settle(placement, role, Settlement.SEVERED if role is None else Settlement.FAILURE)
    placement.release()


def test_round_robin_gives_everybody_the_same() -> None:
    pool, _ = desk(fleet(3, 4), _ROUND_ROBIN)
    edges = [_choose(pool).edge for _ in range(120)]
    assert set(Counter(p for p, _ in edges).values()) == {40}
    assert set(Counter(d for _, d in edges).values()) == {30}


@pytest.mark.parametrize("policy", ["least_loaded", "power_of_two"])
def test_a_loaded_worker_is_passed_over(policy: str) -> None:
    pool, _ = desk(fleet(1, 2), PoolRules(decode_policy=policy, slow_start_s=0.0))
    busy = _choose(pool).edge[1]
    assert _choose(pool).edge[1] != busy


@pytest.mark.parametrize("policy", ["round_robin", "random", "least_loaded", "power_of_two"])
def test_slow_start_gives_a_new_worker_less(policy: str) -> None:
    rules = PoolRules(prefill_policy=policy, decode_policy=policy, slow_start_s=10.0)
    pool, clock = desk(fleet(1, 1), rules)
    clock.now += 100.0
    new = worker(Role.DECODE, 1)
    pool.apply([Change(new.worker_id, new)])
    early = Counter(_choose(pool).edge[1] for _ in range(200))
    assert 0 < early["d1"] < 70
    clock.now += 100.0
    pool, clock = desk(fleet(1, 2), rules)
    clock.now += 100.0
    late = Counter(_choose(pool).edge[1] for _ in range(200))
    assert late["d1"] >= 70


@pytest.mark.parametrize("policy", ["round_robin", "random", "least_loaded", "power_of_two"])
def test_those_that_come_together_share_evenly_from_the_first_request_on(policy: str) -> None:
    """As when a proxy is restarted: a slow start of all but one would leave everything to that one."""
    rules = PoolRules(prefill_policy=policy, decode_policy=policy, slow_start_s=10.0)
    pool, clock = desk(fleet(1, 2, model=None), rules)
    clock.now += 0.5
    later = [worker(Role.DECODE, number) for number in (2, 3)]
    pool.apply([Change(one.worker_id, one) for one in later])
    # Probes learn what each serves, one after the other: these are no new workers.
    for one in [*fleet(1, 2), *later]:
        clock.now += 1.0
        pool.apply([Change(one.worker_id, replace(one, model="m"))])
    shares = Counter(_choose(pool).edge[1] for _ in range(400))
    assert min(shares[f"d{number}"] for number in range(4)) > 60


@pytest.mark.parametrize("state", [State.DRAINING, State.STARTING])
def test_a_worker_that_is_not_ready_is_never_chosen(state: State) -> None:
    pool, _ = desk([*fleet(1, 1), worker(Role.DECODE, 1, state=state)], _ROUND_ROBIN)
    assert {_choose(pool).edge[1] for _ in range(10)} == {"d0"}


def test_an_unhealthy_worker_is_never_chosen_until_it_is_well_again() -> None:
    pool, _ = desk(fleet(1, 2), _ROUND_ROBIN)
    pool.probed("d1", False, "refused")
    assert {_choose(pool).edge[1] for _ in range(10)} == {"d0"}
    pool.probed("d1", True)
    assert {_choose(pool).edge[1] for _ in range(10)} == {"d0", "d1"}


def test_the_latest_reason_is_the_one_that_is_told() -> None:
    pool, _ = desk(fleet(1, 1))
    pool.probed("d0", False, "refused")
    pool.probed("d0", False, "wrong role")
    with pytest.raises(NoPair, match="wrong role"):
        _choose(pool)


def test_a_worker_from_the_snapshot_waits_for_its_probe() -> None:
    pool, _ = desk(fleet(1, 1, origin=Origin.SNAPSHOT))
    assert "not probed yet" in (pool.unready() or "")
    pool.probed("p0", True)
    pool.probed("d0", True)
    assert pool.unready() is None


@pytest.mark.parametrize(("prefills", "decodes", "role"), [(0, 1, "prefill"), (1, 0, "decode")])
def test_no_pair_names_the_role_that_is_missing(prefills: int, decodes: int, role: str) -> None:
    pool, _ = desk(fleet(prefills, decodes))
    with pytest.raises(NoPair, match=role) as caught:
        _choose(pool)
    assert caught.value.retry_after_s is not None


def test_versions_that_are_known_to_differ_are_not_paired() -> None:
    workers = [
        worker(Role.PREFILL, 0, engine_version="0.5.2"),
        worker(Role.DECODE, 0, engine_version="0.5.23"),
    ]
    pool, _ = desk(workers)
    with pytest.raises(NoPair, match="versions"):
        _choose(pool)


def test_an_unknown_version_pairs_with_all() -> None:
    pool, _ = desk([worker(Role.PREFILL, 0, engine_version="0.5.2"), worker(Role.DECODE, 0)])
    assert _choose(pool).edge == ("p0", "d0")


def test_models_are_kept_apart_and_an_unknown_one_is_told() -> None:
    other = [worker(Role.PREFILL, 5, model="b"), worker(Role.DECODE, 5, model="b")]
    pool, _ = desk([*fleet(1, 1, model="a"), *other])
    assert _choose(pool, "a").edge == ("p0", "d0")
    assert _choose(pool, "b").edge == ("p5", "d5")
    with pytest.raises(UnknownModel, match="a, b") as unknown:
        pool.group_for("c")
    assert unknown.value.status == 404
    with pytest.raises(UnknownModel) as unnamed:
        pool.group_for(None)
    assert unnamed.value.status == 400


def test_one_pool_alone_serves_any_name() -> None:
    pool, _ = desk(fleet(1, 1, model="a"))
    assert _choose(pool, "whatever").edge == ("p0", "d0")


def test_a_full_worker_makes_others_wait_and_its_end_is_told() -> None:
    pool, _ = desk(fleet(1, 1), replace(_ROUND_ROBIN, max_in_flight_per_worker=1))
    told: list[object] = []
    pool.on_room = told.append
    first = _choose(pool)
    assert pool.choose(pool.group_for(None)) is None
    first.release_prefill()
    assert pool.choose(pool.group_for(None)) is None
    first.release_decode()
    assert len(told) == 2
    assert _choose(pool).edge == ("p0", "d0")


def test_an_avoided_edge_is_taken_only_when_there_is_no_other() -> None:
    pool, _ = desk(fleet(1, 2), _ROUND_ROBIN)
    avoid = frozenset({("p0", "d0")})
    assert {_choose(pool, avoid=avoid).edge for _ in range(6)} == {("p0", "d1")}
    both = frozenset({("p0", "d0"), ("p0", "d1")})
    assert _choose(pool, avoid=both).edge in both


def test_an_edge_that_failed_is_benched_and_no_other() -> None:
    pool, clock = desk(fleet(2, 2), _TOUCHY)
    bad = _choose(pool)
    _fail(pool, bad, None)
    assert pool.open_edges == 1
    chosen = Counter(_choose(pool).edge for _ in range(40))
    assert bad.edge not in chosen
    assert {edge[0] for edge in chosen} == {"p0", "p1"}
    assert {edge[1] for edge in chosen} == {"d0", "d1"}
    clock.now += 10.0
    assert bad.edge in {_choose(pool).edge for _ in range(40)}


def test_a_benched_edge_gets_one_trial_at_a_time() -> None:
    pool, clock = desk(fleet(1, 2), _TOUCHY)
    bad = _choose(pool)
    _fail(pool, bad, None)
    clock.now += 10.0
    trials = [placement for placement in (_choose(pool) for _ in range(20)) if placement.edge == bad.edge]
    assert len(trials) == 1
    pool.settle(trials[0], None, Settlement.SUCCESS)
    assert pool.open_edges == 0


def test_a_worker_that_failed_is_benched_and_the_only_one_is_tried_all_the_same() -> None:
    pool, _ = desk(fleet(1, 2), _TOUCHY)
    bad = _choose(pool)
    _fail(pool, bad, Role.DECODE)
    assert {_choose(pool).edge[1] for _ in range(6)}.isdisjoint({bad.edge[1]})
    _fail(pool, _choose(pool), Role.DECODE)
    assert _choose(pool).edge[0] == "p0"


@pytest.mark.parametrize("role", [Role.PREFILL, Role.DECODE])
def test_failures_of_the_old_process_do_not_count_against_the_new_one(role: Role) -> None:
    pool, _ = desk(fleet(1, 1, instance="old"), _TOUCHY)
    stale = [_choose(pool) for _ in range(3)]
    new = worker(role, 0, instance="new")
    pool.apply([Change(new.worker_id, new)])
    for placement, blamed in zip(stale, (None, role, None), strict=True):
        _fail(pool, placement, blamed)
    assert pool.open_edges == 0
    member = pool.get(new.worker_id)
    assert member is not None
    assert member.breaker.closed
    assert member.in_flight == 0


def test_late_failures_do_not_lengthen_an_edges_bench() -> None:
    pool, clock = desk(fleet(1, 2), _TOUCHY)
    first, _, late = _choose(pool), _choose(pool), _choose(pool)
    assert first.edge == late.edge
    _fail(pool, first, None)
    clock.now += 9.0
    _fail(pool, late, None)
    clock.now += 1.0
    assert first.edge in {_choose(pool).edge for _ in range(2)}


def test_giving_back_twice_counts_once() -> None:
    pool, _ = desk(fleet(1, 1))
    placement = _choose(pool)
    placement.release_prefill()
    placement.release()
    placement.release()
    assert [member.in_flight for member in pool.members()] == [0, 0]


def test_many_changes_at_once_are_told_once() -> None:
    pool, _ = desk([])
    told: list[int] = []
    pool.on_change = lambda: told.append(len(list(pool.members())))
    many = fleet(20, 20)
    pool.apply([Change(one.worker_id, one) for one in many])
    pool.apply([Change(one.worker_id, None) for one in many])
    assert told == [40, 0]
