from __future__ import annotations

import pytest

from workers.errors import ConfigurationError
from workers.generations import Flag, Version, attention_dp, check_supported, translate


def test_versions_are_ordered_as_python_packages_are() -> None:
    ordered = [
        "0.5.2.dev7",
        "0.5.2rc1",
        "0.5.2rc2.dev1",
        "0.5.2rc2",
        "0.5.2",
        "0.5.2.post1",
        "0.5.3",
        "0.5.10",
    ]
    versions = [Version.parse(text) for text in ordered]
    assert versions == sorted(versions, key=lambda version: version)
    assert len(set(versions)) == len(ordered)


@pytest.mark.parametrize("text", ["v0.5.2rc1", "0.5.2rc1+gdeadbee", " 0.5.2rc1\n", "0.5.2.rc1"])
def test_a_version_is_read_however_it_is_written(text: str) -> None:
    assert Version.parse(text) == Version.parse("0.5.2rc1")


@pytest.mark.parametrize("text", ["", "0.5", "latest", "0.5.2;rm"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="engine_version"):
        Version.parse(text)


@pytest.mark.parametrize(
    ("name", "version", "spelt"),
    [
        ("--stream-output", "0.5.9", "--stream-output"),
        ("--stream-output", "0.5.10", "--incremental-streaming-output"),
        ("--incremental-streaming-output", "0.5.2rc1", "--stream-output"),
        ("--cuda-graph-bs", "0.5.13", "--cuda-graph-bs"),
        ("--cuda-graph-bs", "0.5.14", "--cuda-graph-bs-decode"),
        ("--cuda-graph-bs-decode", "0.5.2", "--cuda-graph-bs"),
    ],
)
def test_a_renamed_flag_is_spelt_as_the_engine_spells_it(name: str, version: str, spelt: str) -> None:
    done = translate([Flag(name, ("1", "2"))], Version.parse(version))
    assert done.flags == (Flag(spelt, ("1", "2")),)
    assert bool(done.notes) is (name != spelt)


def test_a_flag_that_became_two_keeps_its_meaning() -> None:
    flags = translate([Flag("--disable-cuda-graph")], Version.parse("0.5.23")).flags
    assert flags == (
        Flag("--cuda-graph-backend-decode", ("disabled",)),
        Flag("--cuda-graph-backend-prefill", ("disabled",)),
    )


def test_a_flag_that_is_needed_no_more_is_left_out_and_said() -> None:
    flag = Flag("--disaggregation-decode-tp", ("4",))
    assert translate([flag], Version.parse("0.5.9")).flags == (flag,)
    done = translate([flag], Version.parse("0.5.10"))
    assert done.flags == ()
    assert "--disaggregation-decode-tp" in done.notes[0]


def test_a_flag_of_a_later_version_is_refused_with_the_version() -> None:
    with pytest.raises(ConfigurationError, match=r"--disaggregation-decode-retraction-backup.*0\.5\.18"):
        translate([Flag("--disaggregation-decode-retraction-backup", ("none",))], Version.parse("0.5.17"))


def test_data_parallel_attention_is_asked_for_as_the_engine_wants_it() -> None:
    assert attention_dp(8, Version.parse("0.5.21")) == (
        Flag("--dp-size", ("8",)),
        Flag("--enable-dp-attention"),
    )
    assert attention_dp(8, Version.parse("0.5.22")) == (Flag("--attn-dp-size", ("8",)),)


def test_an_engine_that_is_too_old_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"0\.5\.1.*older than 0\.5\.2rc1"):
        check_supported(Version.parse("0.5.1.post3"), "mooncake")


def test_an_engine_without_the_transfer_backend_is_refused() -> None:
    assert check_supported(Version.parse("0.5.9"), "mori") == ()
    with pytest.raises(ConfigurationError, match=r"mori came with SGLang 0\.5\.9"):
        check_supported(Version.parse("0.5.8"), "mori")


def test_an_engine_newer_than_known_is_launched_with_a_note() -> None:
    assert "newer" in check_supported(Version.parse("0.6.0"), "mooncake")[0]
    assert check_supported(Version.parse("0.5.23.post1"), "mooncake") == ()
