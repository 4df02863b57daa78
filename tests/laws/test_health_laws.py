"""Laws of edge health, in fleets of which chance decides what fails: many seeds, one clock that we move."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.roster import Role
from proxy.routing.breaker import Settlement
from proxy.routing.policies import POLICIES
from tests.unit.routing.scene import Scene

_SHAPES = [(1, 1), (1, 3), (2, 2), (3, 3), (4, 8), (16, 16)]
_SEEDS = st.integers(0, 2**32)
_POLICIES = st.sampled_from(sorted(POLICIES))


def _until(scene: Scene, requests: int, done: str) -> bool:
    """Runs so many requests at most, until somebody is benched."""
    for _ in range(requests // 20):
        scene.run(20)
        if scene.pool.open_edges if done == "edge" else scene.benched:
            return True
    return False


@pytest.mark.parametrize("shape", _SHAPES, ids=str)
def test_five_percent_at_random_everywhere_opens_nothing_in_100000_requests(shape: tuple[int, int]) -> None:
    scene = Scene(*shape, seed=sum(shape))
    scene.failing = lambda prefill, decode: 0.05
    scene.run(100_000)
    assert scene.opened["edges"] == scene.opened["members"] == 0
    assert scene.attempts / scene.requests < 1.07


@given(seed=_SEEDS, shape=st.sampled_from(_SHAPES), policy=_POLICIES, per_s=st.sampled_from([1, 20, 500]))
@settings(max_examples=25, deadline=None)
def test_five_percent_at_random_opens_nothing_whatever_the_seed_the_policy_and_the_pace(
    seed: int, shape: tuple[int, int], policy: str, per_s: int
) -> None:
    scene = Scene(*shape, seed=seed, policy=policy, per_s=per_s, concurrency=32)
    scene.failing = lambda prefill, decode: 0.05
    scene.run(4000)
    assert scene.opened["edges"] == scene.opened["members"] == 0


@given(seed=_SEEDS, rate=st.sampled_from([0.5, 1.0]), shape=st.sampled_from([(2, 2), (3, 3), (3, 5)]))
@settings(max_examples=15, deadline=None)
def test_one_bad_edge_is_isolated_while_its_ends_serve_others(
    seed: int, rate: float, shape: tuple[int, int]
) -> None:
    scene = Scene(*shape, seed=seed, policy="random")
    scene.failing = lambda prefill, decode: rate if (prefill, decode) == ("p0", "d0") else 0.02
    scene.run(4000)
    assert scene.opened["edges"] >= 1
    assert scene.opened["members"] == 0
    edges = shape[0] * shape[1]
    scene.run(8000)
    assert scene.opened["members"] == 0
    # A black hole costs its trials; what fails every second time passes some, and is caught again.
    assert scene.tried["p0", "d0"] < (20 if rate == 1.0 else 0.7 * 8000 / edges)
    for others in (("p0", "d1"), ("p1", "d0")):
        assert scene.tried[others] > 0.5 * 8000 / edges


@given(seed=_SEEDS, bad=st.sampled_from(["p0", "d0"]), shape=st.sampled_from([(2, 2), (3, 3), (8, 8)]))
@settings(max_examples=15, deadline=None)
@example(seed=710, bad="d0", shape=(2, 2))
def test_one_bad_worker_is_convicted_and_its_partners_are_not(
    seed: int, bad: str, shape: tuple[int, int]
) -> None:
    scene = Scene(*shape, seed=seed)
    scene.failing = lambda prefill, decode: 1.0 if bad in (prefill, decode) else 0.02
    # In a small fleet its few edges may all be benched before there is enough against itself: as good.
    edges = shape[1] if bad == "p0" else shape[0]
    assert _until(scene, 2000, "worker") or (shape == (2, 2) and scene.pool.open_edges == edges)
    assert scene.benched <= {bad}
    for _ in range(20):
        scene.run(200)
        assert scene.benched <= {bad}
    assert scene.attempts / scene.requests < 1.1


@pytest.mark.parametrize(
    "bad",
    [{"d0", "d1"}, {"p0", "p1"}, {"p0", "p1", "d0", "d1"}, {"p0", "d3"}],
    ids=lambda bad: "-".join(sorted(bad)),
)
@pytest.mark.parametrize("settlement", [Settlement.FAILURE, Settlement.SEVERED])
def test_with_half_of_the_workers_failing_all_is_well_once_the_breakers_are_open(
    bad: set[str], settlement: Settlement
) -> None:
    scene = Scene(4, 4, seed=11, concurrency=32)
    scene.settlement = settlement
    scene.failing = lambda prefill, decode: 1.0 if bad & {prefill, decode} else 0.0
    scene.run(1500)
    for _ in range(10):
        scene.run(1000)
        assert scene.attempts <= 1.2 * scene.requests
        assert scene.lost == 0
        assert scene.benched <= bad


@pytest.mark.parametrize("role", [Role.PREFILL, Role.DECODE])
def test_half_of_the_workers_refusing_connections_are_benched_at_once(role: Role) -> None:
    scene = Scene(4, 4, seed=5)
    bad = {f"{role.value[0]}{number}" for number in (0, 1)}
    scene.blame = role
    scene.failing = lambda prefill, decode: 1.0 if bad & {prefill, decode} else 0.0
    scene.run(60)
    assert scene.benched == bad
    scene.run(10_000)
    assert scene.attempts <= 1.01 * scene.requests
    assert scene.lost == 0


@pytest.mark.parametrize("bad", [{"p0"}, {"d0"}, {"p0", "d0"}], ids=str)
def test_when_the_fault_ends_everybody_serves_again_and_nothing_is_remembered(bad: set[str]) -> None:
    scene = Scene(3, 3, seed=2, policy="random")
    scene.failing = lambda prefill, decode: 1.0 if bad <= {prefill, decode} else 0.0
    scene.run(5000)
    assert scene.pool.open_edges or scene.benched
    scene.failing = lambda prefill, decode: 0.0
    scene.run(200 * 120)  # twice the window, and more than the longest bench
    assert not scene.pool.open_edges
    assert not scene.benched
    assert scene.pool._health.calm
    scene.run(900)
    assert all(scene.tried[f"p{p}", f"d{d}"] > 60 for p in range(3) for d in range(3))


@pytest.mark.parametrize("settlement", [Settlement.FAILURE, Settlement.SEVERED])
def test_a_fleet_that_fails_as_a_whole_is_tried_all_the_same_and_recovers_within_seconds(
    settlement: Settlement,
) -> None:
    scene = Scene(2, 2, seed=3)
    scene.settlement = settlement
    scene.failing = lambda prefill, decode: 1.0
    scene.run(300)
    assert all(scene.tried[f"p{p}", f"d{d}"] > 20 for p in range(2) for d in range(2))
    scene.failing = lambda prefill, decode: 0.0
    scene.run(200)
    assert scene.lost == 0
    assert scene.attempts == scene.requests


def test_a_single_pair_is_used_whatever_it_does() -> None:
    scene = Scene(1, 1, seed=3)
    for settlement in (Settlement.FAILURE, Settlement.SEVERED):
        scene.settlement = settlement
        scene.failing = lambda prefill, decode: 0.6
        scene.run(2000)
        assert scene.tried["p0", "d0"] == scene.attempts > 2000


def test_in_a_wide_fleet_few_edges_are_remembered() -> None:
    scene = Scene(64, 64, seed=3, per_s=50.0)
    scene.failing = lambda prefill, decode: 0.05
    for _ in range(20):
        scene.run(1000)
        # 50 requests a second for 60 s, of which 5 % fail, and a part of a window until the sweep.
        assert len(scene.pool._health._cases) < 3000 * 0.05 * 1.5
