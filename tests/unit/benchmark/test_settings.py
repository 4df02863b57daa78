"""The recipe's variables, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from deploy.slurm.benchmark.command import command, limit_s
from deploy.slurm.benchmark.settings import Settings, read_settings

NAMED = {"MODEL_NAME": "Qwen3-32B"}


def settings(*flags: str, **environment: str) -> Settings:
    return read_settings(flags, {**NAMED, **environment})


def test_the_recipes_variables_are_understood() -> None:
    read = settings(
        xP="2",
        yD="3",
        SLURM_JOB_ID="41",
        LOG_PATH="/logs",
        BENCHMARK_COMBINATIONS="1024/1024 2048/100",
        BENCHMARK_CONCURRENCY_LEVELS="32 64",
        BENCHMARK_ITR="2",
    )
    assert read.folder == Path("/logs/41")
    assert read.setup.xp_yd == "2p3d"
    asked = [(cell.iteration, cell.isl, cell.osl, cell.concurrency, cell.prompts) for cell in read.cells()]
    assert asked[:3] == [(1, 1024, 1024, 32, 64), (1, 1024, 1024, 64, 128), (1, 2048, 100, 32, 64)]
    assert len(asked) == 8


def test_a_flag_comes_before_its_variable_and_an_empty_variable_is_none() -> None:
    assert settings("--port", "9", BENCHMARK_PORT="8").port == 9
    assert settings(BENCHMARK_PORT="").port == 30000


def test_the_models_folder_is_the_tokenizers_unless_said_otherwise() -> None:
    assert settings(MODEL_PATH="/models/x").tokenizer == "/models/x"
    assert settings(MODEL_PATH="/models/x", BENCHMARK_TOKENIZER="y").tokenizer == "y"


def test_a_models_full_name_makes_no_folder() -> None:
    assert "/" not in settings(MODEL_NAME="amd/Llama").setup.model


@pytest.mark.parametrize("data_set", ["random", "random-ids"])
def test_random_data_sets_get_their_own_lengths(data_set: str) -> None:
    read = settings("--dataset", data_set)
    words = command(read.cells()[0], read, Path("out"))
    assert words[words.index("--random-input-len") + 1] == "1024"
    assert not any(word.startswith("--gsp") for word in words)


def test_a_long_cell_may_take_longer_in_proportion() -> None:
    read = settings("--combinations", "1024/1024 8192/1024", "--concurrency", "8")
    short, long = read.cells()
    assert limit_s(short, read) == 1800
    assert limit_s(long, read) == 1800 * 4.5


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"MODEL_NAME": ""}, "MODEL_NAME"),
        ({"BENCHMARK_COMBINATIONS": "1024x1024"}, "is not ISL/OSL"),
        ({"BENCHMARK_CONCURRENCY_LEVELS": "8 8"}, "none twice"),
        ({"BENCHMARK_CONCURRENCY_LEVELS": "-1"}, "no whole number"),
        ({"BENCHMARK_ITR": "0"}, "at least 1"),
        ({"BENCHMARK_DATASET": "sharegpt"}, "none of"),
        ({"xP": "two"}, "no whole number"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(
    environment: Mapping[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        read_settings([], {**NAMED, **environment})
    assert refused.value.code == 2
    assert said in capsys.readouterr().err
