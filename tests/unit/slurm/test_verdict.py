"""From the nodes' looks: what is in the way, and every node's address."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from deploy.slurm.job.look import Look, as_line, read_looks
from deploy.slurm.job.verdict import addresses, notes, problems
from tests.unit.slurm.environs import placed, settings
from workers.doctor.finding import failure, ok, warning

PORT = failure("port 30000 of the prefill", "Address already in use", "ss -ltnp")
FABRIC = failure("rdma", "no device", "check ibstat")


def looks(**changed: Look) -> dict[str, Look]:
    """Of the recipe's five nodes, all well but for those given."""
    well = {
        f"n{number}": Look(
            node=f"n{number}",
            address=f"10.0.0.{number}",
            head_address="10.0.0.1",
            weights="/shared/models/Qwen3-32B",
            fingerprint="sha256:a",
            image="sha256:i",
            engine_version="0.5.2",
            findings=(ok("weights", "there"),),
        )
        for number in range(1, 6)
    }
    return well | changed


def told(found: dict[str, Look], **more: str) -> list[str]:
    of = settings(**more)
    return problems(of, placed(of), found)


def with_findings(number: int, *findings: object) -> dict[str, Look]:
    name = f"n{number}"
    return looks(**{name: msgspec.structs.replace(looks()[name], findings=findings)})


def test_when_all_is_well_nothing_is_in_the_way() -> None:
    assert told(looks()) == []


def test_a_node_without_an_answer_is_named() -> None:
    found = looks()
    del found["n4"]
    assert told(found) == ["node 3 (n4, decode): no answer within 240 s (PD_JOB_LOOK_S): see above"]


def test_an_image_that_is_not_there_is_told_as_the_step_told_it() -> None:
    assert told(looks(n3=Look(node="n3", failed="image i is not on this node"))) == [
        "node 2 (n3, prefill): image i is not on this node"
    ]


def test_a_nodes_failures_are_told_with_advice_and_warnings_are_not() -> None:
    found = with_findings(2, PORT, warning("shm", "small", "more"))
    assert told(found) == [
        "node 1 (n2, prefill): port 30000 of the prefill: Address already in use: ss -ltnp"
    ]


def test_what_the_doctor_says_may_be_let_pass_and_a_taken_port_may_not() -> None:
    found = with_findings(2, PORT, FABRIC)
    assert len(told(found)) == 2
    assert [line.partition(": ")[2] for line in told(found, PD_JOB_PREFLIGHT="warn")] == [
        "port 30000 of the prefill: Address already in use: ss -ltnp"
    ]
    of = settings(PD_JOB_PREFLIGHT="warn")
    assert "node 1 (n2, prefill): rdma: no device: check ibstat, not heeded" in notes(of, placed(of), found)


@pytest.mark.parametrize(
    ("field", "what"), [("fingerprint", "weights"), ("image", "image"), ("engine_version", "SGLang")]
)
def test_what_differs_between_nodes_is_told_with_the_nodes(field: str, what: str) -> None:
    other = msgspec.structs.replace(looks()["n3"], **{field: "another"})
    (line,) = told(looks(n3=other))
    assert line.startswith(f"{what}: not the same on all nodes: ")
    assert "on n1, n2, n4, n5; another on n3" in line


def test_rank_0_is_where_the_others_see_it_when_its_own_name_is_its_loopback() -> None:
    own = msgspec.structs.replace(looks()["n1"], address="127.0.1.1", head_address="127.0.1.1")
    found = looks(n1=own)
    assert told(found) == []
    assert addresses(placed(settings()), found)[0] == "10.0.0.1"


def test_a_rank_0_that_nobody_can_reach_is_told() -> None:
    blind = {
        name: msgspec.structs.replace(
            each, head_address="127.0.1.1", address="127.0.0.1" if name == "n1" else each.address
        )
        for name, each in looks().items()
    }
    (line,) = told(blind)
    assert "no other node knows an address of it: set PD_JOB_INTERFACE or PD_JOB_SUBNET" in line


def test_two_nodes_with_one_address_are_told() -> None:
    twin = msgspec.structs.replace(looks()["n3"], address="10.0.0.2")
    assert told(looks(n3=twin)) == ["address: 2 nodes have 10.0.0.2: set PD_JOB_INTERFACE or PD_JOB_SUBNET"]


def test_looks_are_read_from_among_other_lines() -> None:
    seen = Look(node="n1", findings=(replace(PORT, said='with "quotes"'),))
    assert read_looks(f"srun: hello\n{as_line(seen)}\n{{}}\n") == {"n1": seen}
