"""What `--dry-run` prints, held against files that were read by eye; PD_WRITE_GOLDEN=1 writes them anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.roster import Role
from tests.unit.workers.nodes import launch, mi300x
from workers.generations import Version
from workers.plan import make_plan

GOLDEN = Path(__file__).parent / "golden"
MODELS = (
    "Llama-3.1-8B-Instruct",
    "Llama-3.1-405B-Instruct-FP8-KV",
    "amd-Llama-3.3-70B-Instruct-FP8-KV",
    "Qwen3-32B",
    "DeepSeek-V3",
    "Mixtral-8x7B-v0.1",
)
VERSIONS = ("0.5.2rc1", "0.5.23")
ROLES = (Role.PREFILL, Role.DECODE)


def held(name: str, text: str) -> None:
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("PD_WRITE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("model", MODELS)
def test_the_plan_of_every_model_is_the_one_reviewed(model: str, role: Role, version: str) -> None:
    plan = make_plan(launch(role, model), mi300x(version, model, Path("/models") / model))
    held(f"{model}-{role}-{version}", plan.render())


@pytest.mark.parametrize("version", VERSIONS)
def test_the_plan_of_a_worker_on_two_nodes_is_the_one_reviewed(version: str) -> None:
    settings = launch(
        Role.DECODE,
        "DeepSeek-V3",
        tp_size=16,
        dp_size=16,
        dp_attention=True,
        nnodes=2,
        node_rank=1,
        dist_init_addr="node0:20000",
        log_name="decode_NODE4",
    )
    plan = make_plan(settings, mi300x(version, "DeepSeek-V3", Path("/models/DeepSeek-V3")))
    held(f"two-nodes-{version}", plan.render())


def releases() -> dict[str, tuple[str, Version, Version]]:
    """Flags of SGLang: how many values, and the first and last release that has it."""
    text = (Path(__file__).parent / "sglang_flags.txt").read_text()
    found: dict[str, tuple[str, Version, Version]] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, arity, first, last = line.split()
            found[name] = (arity, Version.parse(first), Version.parse(last))
    return found


ALL_RELEASES = ("0.5.2rc1", "0.5.2", *(f"0.5.{patch}" for patch in range(3, 24)))


@pytest.mark.parametrize("dp_attention", [False, True])
@pytest.mark.parametrize("version", ALL_RELEASES)
def test_every_flag_exists_in_the_engine_and_has_as_many_values_as_it_takes(
    version: str, dp_attention: bool
) -> None:
    known = releases()
    asked = (
        "--stream-output",
        "--cuda-graph-max-bs",
        "64",
        "--disable-cuda-graph",
        "--watchdog-timeout",
        "9",
    )
    for model in MODELS:
        for role in Role:
            settings = launch(role, model, engine_arguments=asked, api_key="k")
            if dp_attention:
                settings = settings.model_copy(update={"dp_size": 8, "dp_attention": True})
            argv = make_plan(settings, mi300x(version, model)).argv[3:]
            for name, values in flags_of(argv):
                arity, first, last = known[name]
                assert first <= Version.parse(version) <= last, name
                assert (arity == "+" and values) or str(values) == arity, name


def flags_of(argv: tuple[str, ...]) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for word in argv:
        if word.startswith("--"):
            found.append((word, 0))
        else:
            found[-1] = (found[-1][0], found[-1][1] + 1)
    return found
