from __future__ import annotations

from pathlib import Path

import pytest

from proxy.roster import Role
from workers.catalogue import load
from workers.errors import ConfigurationError
from workers.generations import Flag, Version

NEW = Version.parse("0.5.23")


def test_the_six_models_of_the_recipe_are_known_by_their_exact_names() -> None:
    assert load().names == (
        "DeepSeek-V3",
        "Llama-3.1-405B-Instruct-FP8-KV",
        "Llama-3.1-8B-Instruct",
        "Mixtral-8x7B-v0.1",
        "Qwen3-32B",
        "amd-Llama-3.3-70B-Instruct-FP8-KV",
    )


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("deepseek-ai/DeepSeek-V3", "DeepSeek-V3"),
        ("amd/Llama-3.3-70B-Instruct-FP8-KV", "amd-Llama-3.3-70B-Instruct-FP8-KV"),
        ("/nvme/models/Qwen3-32B/", "Qwen3-32B"),
        ("somebody/else", None),
    ],
)
def test_a_model_is_found_by_its_alias_with_the_organisation_and_by_its_folder(
    asked: str, name: str | None
) -> None:
    assert load().name_of(asked) == name


def test_an_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    message = load().unknown("Qwen/qwen3-32b").message
    assert "Did you mean Qwen3-32B?" in message
    assert all(name in message for name in load().names)


def test_flags_follow_the_version_the_role_and_the_gpu() -> None:
    def names(role: Role, version: str, gpu: str | None) -> set[str]:
        recipe = load().recipe("Qwen3-32B", role, Version.parse(version), gpu)
        return {flag.name for flag in recipe.flags}

    assert "--attention-backend" not in names(Role.DECODE, "0.5.2", "amd")
    assert "--attention-backend" in names(Role.DECODE, "0.5.3", "amd")
    assert "--attention-backend" not in names(Role.DECODE, "0.5.3", "nvidia")
    assert "--attention-backend" not in names(Role.DECODE, "0.5.3", None)
    assert "--disable-cuda-graph" in names(Role.PREFILL, "0.5.3", "amd")
    assert "--disable-cuda-graph" not in names(Role.DECODE, "0.5.3", "amd")


def test_a_layer_holds_from_its_first_version_until_before_its_last(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('[models.a]\n[[models.a.when]]\nsince = "0.5.3"\nuntil = "0.5.10"\nflags = ["--x-y"]\n')
    versions = ("0.5.2", "0.5.3", "0.5.9.post1", "0.5.10")
    recipes = [load(own).recipe("a", Role.DECODE, Version.parse(version), None) for version in versions]
    assert [Flag("--x-y") in recipe.flags for recipe in recipes] == [False, True, True, False]


def test_a_model_that_is_only_a_path_gets_the_defaults() -> None:
    recipe = load().recipe(None, Role.PREFILL, NEW, "amd")
    assert recipe.tp_size == 1
    assert Flag("--trust-remote-code") in recipe.flags


def test_a_users_file_adds_models_and_replaces_entries(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        """
        [models."Mine-7B"]
        base = "mi300x"
        aliases = ["me/Mine-7B"]
        without = ["--stream-output"]
        prefill = ["--chunked-prefill-size", "8192"]
        decode = ["--cuda-graph-bs", "1..3", "8"]
        [models."Qwen3-32B"]
        tp_size = 2
        """
    )
    catalogue = load(own)
    mine = catalogue.recipe(catalogue.name_of("me/Mine-7B"), Role.DECODE, NEW, None)
    assert mine.tp_size == 8
    assert Flag("--stream-output") not in mine.flags
    assert mine.flags[-1] == Flag("--cuda-graph-bs", ("1", "2", "3", "8"))
    assert catalogue.recipe("Qwen3-32B", Role.DECODE, NEW, None).tp_size == 2
    assert catalogue.recipe("DeepSeek-V3", Role.DECODE, NEW, None).tp_size == 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[models.a]\ntp_sise = 1", "models.a.tp_sise"),
        ("[models.a]\nbase = 'b'", "base 'b'"),
        ("[models", "not TOML"),
        ("[models.a]\nflags = ['9..1']", "9..1"),
    ],
)
def test_a_wrong_file_is_refused_with_the_entry(tmp_path: Path, text: str, said: str) -> None:
    own = tmp_path / "own.toml"
    own.write_text(text)
    with pytest.raises(ConfigurationError, match="catalogue") as caught:
        load(own)
    assert said in caught.value.message


def test_a_missing_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read .*none\.toml"):
        load(tmp_path / "none.toml")


def test_the_page_of_models_lists_all_names_and_aliases() -> None:
    page = (Path(__file__).parents[3] / "docs" / "models.md").read_text()
    catalogue = load()
    rows = [line.split("|")[1:4] for line in page.splitlines() if line.startswith("| `")]
    told = {row[0].strip(" `"): (row[1].strip(" `"), row[2].strip()) for row in rows if "/" in row[1]}
    assert set(told) == set(catalogue.names)
    for name, (alias, gpus) in told.items():
        assert catalogue.name_of(alias) == name
        assert str(catalogue.recipe(name, Role.DECODE, NEW, "amd").tp_size) == gpus
