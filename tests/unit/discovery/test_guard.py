"""The mass-delete guard: when a deletion is believed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from proxy.discovery.guard import Guard, Verdict, pool_of
from proxy.roster import Role, State, Worker


def fleet(prefills: int, decodes: int) -> list[Worker]:
    counts = ((Role.PREFILL, prefills), (Role.DECODE, decodes))
    return [
        Worker(f"{role}{n}", f"http://{role}:{n + 1}", role) for role, count in counts for n in range(count)
    ]


class Scene:
    """A fleet, who of it answers, and a guard."""

    def __init__(self, prefills: int, decodes: int) -> None:
        self.workers = {worker.worker_id: worker for worker in fleet(prefills, decodes)}
        self.answering = set(self.workers)
        self.guard = Guard(lambda worker_id: worker_id in self.answering)

    def delete(self, *worker_ids: str, now_s: float = 0.0, emptied: bool = False) -> Verdict:
        sizes = Counter(pool_of(worker) for worker in self.workers.values())
        gone = [self.workers[worker_id] for worker_id in worker_ids]
        verdict = self.guard.judge(gone, sizes, now_s, emptied=emptied)
        for worker_id in verdict.believed:
            del self.workers[worker_id]
        self.workers |= {worker.worker_id: worker for worker in verdict.revived}
        return verdict


def test_one_of_many_is_believed() -> None:
    assert Scene(2, 2).delete("decode0").believed == ["decode0"]


def test_the_only_one_is_believed() -> None:
    assert Scene(1, 1).delete("prefill0").believed == ["prefill0"]


def test_half_is_believed() -> None:
    assert len(Scene(4, 4).delete("decode0", "decode1", "prefill0", "prefill1").believed) == 4


def test_more_than_half_of_the_fleet_is_disbelieved() -> None:
    scene = Scene(1, 1)
    assert scene.delete("prefill0", "decode0").believed == []
    assert scene.guard.held == 2


def test_more_than_half_of_one_pool_is_disbelieved_in_a_large_fleet() -> None:
    scene = Scene(3, 20)
    assert scene.delete("prefill0", "prefill1", "decode0").believed == ["decode0"]


def test_models_are_pools_of_their_own() -> None:
    scene = Scene(3, 20)
    other = Worker("other", "http://o:1", Role.PREFILL, model="other")
    scene.workers["other"] = other
    assert scene.delete("prefill0", "other").believed == ["prefill0", "other"]


def test_those_that_went_before_it_was_many_come_back() -> None:
    scene = Scene(2, 2)
    assert scene.delete("decode0", now_s=0).believed
    assert scene.delete("decode1", now_s=1).revived[0].worker_id == "decode0"
    verdict = scene.delete("prefill0", now_s=2)
    assert verdict == Verdict(believed=[], revived=[])
    assert scene.guard.held == 3
    assert set(scene.workers) == {"decode0", "decode1", "prefill0", "prefill1"}


def test_deletions_far_apart_are_not_many() -> None:
    scene = Scene(0, 4)
    for n in range(3):
        assert scene.delete(f"decode{n}", now_s=n * 20.0).believed == [f"decode{n}"]


def test_a_silent_worker_goes_at_once() -> None:
    scene = Scene(2, 2)
    scene.answering -= {"decode0"}
    assert scene.delete(*scene.workers).believed == ["decode0"]


def test_a_held_worker_that_falls_silent_goes() -> None:
    scene = Scene(1, 1)
    scene.delete("prefill0", "decode0")
    scene.answering -= {"decode0"}
    assert scene.guard.due(1.0, reachable=False) == ["decode0"]
    assert scene.guard.held == 1


def test_one_brought_back_is_given_time_to_be_probed() -> None:
    scene = Scene(0, 2)
    scene.delete("decode0", now_s=0)
    scene.delete("decode1", now_s=1)
    scene.answering -= {"decode0"}  # nobody has probed it since it went
    assert scene.guard.due(2.0, reachable=True) == []
    assert scene.guard.due(7.0, reachable=True) == ["decode0"]


def test_draining_workers_are_believed_however_many() -> None:
    scene = Scene(2, 2)
    scene.workers = {i: replace(worker, state=State.DRAINING) for i, worker in scene.workers.items()}
    assert len(scene.delete(*scene.workers, emptied=True).believed) == 4


def test_drained_workers_are_no_sign_of_illness() -> None:
    scene = Scene(0, 4)
    for n in range(2):
        scene.workers[f"decode{n}"] = replace(scene.workers[f"decode{n}"], state=State.DRAINING)
    assert len(scene.delete("decode0", "decode1", "decode2").believed) == 3


def test_an_empty_list_is_disbelieved_even_of_one() -> None:
    assert Scene(0, 1).delete("decode0", emptied=True).believed == []


def test_a_wary_guard_doubts_even_one_and_not_for_ever() -> None:
    scene = Scene(4, 4)
    scene.guard.be_wary(100.0)
    assert scene.delete("decode0", now_s=110).believed == []
    assert scene.delete("decode1", now_s=130).believed == ["decode1"]


def test_a_wary_guard_still_believes_that_a_silent_worker_is_gone() -> None:
    scene = Scene(4, 4)
    scene.guard.be_wary(100.0)
    scene.answering -= {"decode0"}
    assert scene.delete("decode0", now_s=110).believed == ["decode0"]


def test_the_hold_ends_after_its_time() -> None:
    scene = Scene(1, 1)
    scene.delete("prefill0", "decode0", now_s=10)
    assert scene.guard.due(69.9, reachable=True) == []
    assert sorted(scene.guard.due(70.0, reachable=True)) == ["decode0", "prefill0"]
    assert scene.guard.held == 0


def test_the_hold_does_not_end_while_etcd_is_away_and_begins_anew_after() -> None:
    scene = Scene(1, 1)
    scene.delete("prefill0", "decode0", now_s=0)
    assert scene.guard.due(500.0, reachable=False) == []
    scene.guard.extend(500.0)
    assert scene.guard.due(559.0, reachable=True) == []
    assert len(scene.guard.due(560.0, reachable=True)) == 2


def test_a_key_that_returns_ends_the_doubt() -> None:
    scene = Scene(1, 1)
    scene.delete("prefill0", "decode0")
    scene.guard.returned("decode0")
    assert not scene.guard.holds("decode0")
    assert scene.guard.due(60.0, reachable=True) == ["prefill0"]


def test_one_that_came_back_by_itself_is_not_brought_back_again() -> None:
    scene = Scene(0, 2)
    scene.delete("decode0", now_s=0)
    scene.guard.returned("decode0")
    scene.workers |= {worker.worker_id: worker for worker in fleet(0, 1)}
    assert scene.delete("decode1", now_s=1).revived == []


def test_those_that_went_and_came_back_do_not_count_when_the_next_goes() -> None:
    scene = Scene(0, 4)
    for n in range(2):
        scene.delete(f"decode{n}", now_s=n)
        scene.guard.returned(f"decode{n}")
    scene.workers |= {worker.worker_id: worker for worker in fleet(0, 4)}
    assert scene.delete("decode2", "decode3", now_s=3).believed == ["decode2", "decode3"]
