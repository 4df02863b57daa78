"""Settings: four sources, one winner; every mistake is told by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.__main__ import main
from proxy.errors import SettingsError
from proxy.settings import Settings
from proxy.settings_catalogue import LEAVES
from proxy.settings_flags import parser, read
from proxy.settings_loading import Loaded, load
from proxy.settings_text import effective


def loaded(*argv: str, **environ: str) -> Loaded:
    return load(read(argv), environ)


def toml(tmp_path: Path, text: str) -> str:
    path = tmp_path / "pd.toml"
    path.write_text(text)
    return str(path)


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    config = toml(tmp_path, "[limits]\nhead_count = 1\nfan_out = 1\nhead_bytes = 2048\n")
    limits = loaded(
        "--config", config, "--limits-head-count=3", PD_LIMITS_HEAD_COUNT="2", PD_LIMITS_FAN_OUT="2"
    ).settings.limits
    assert (limits.head_count, limits.fan_out, limits.head_bytes) == (3, 2, 2048)
    assert limits.body_bytes == 512 * 2**20


@pytest.mark.parametrize("dotted", LEAVES)
def test_every_setting_has_a_flag_a_variable_and_a_description(dotted: str) -> None:
    leaf = LEAVES[dotted]
    assert leaf.flag in parser().format_help()
    assert leaf.description.endswith(".")
    if leaf.default is not None and not leaf.listed:
        assert loaded(**{leaf.variable: str(leaf.default)}).settings == Settings()
        assert loaded(leaf.flag, str(leaf.default)).settings == Settings()


@pytest.mark.parametrize(
    ("text", "size_bytes"), [("2048", 2048), ("64KiB", 65536), ("1.5 MiB", 3 * 2**19), ("4gb", 4 * 10**9)]
)
def test_sizes_take_units(text: str, size_bytes: int) -> None:
    assert loaded("--limits-body-bytes", text).settings.limits.body_bytes == size_bytes


@pytest.mark.parametrize(
    ("text", "seconds"), [("2", 2), ("150ms", 0.15), ("5m", 300), ("1h", 3600), ("0.5s", 0.5)]
)
def test_durations_take_units(text: str, seconds: float) -> None:
    assert loaded("--upstream-connect-s", text).settings.upstream.connect_s == pytest.approx(seconds)


def test_an_error_says_what_was_given_where_and_what_is_allowed() -> None:
    with pytest.raises(SettingsError) as caught:
        loaded("--port", "70000", PD_LIMITS_HEAD_S="soon")
    for part in (
        "server.port",
        "--server-port",
        "--port",
        "PD_SERVER_PORT",
        "'70000'",
        "flag --port",
        "65535",
    ):
        assert part in caught.value.message
    for part in ("limits.head_s", "'soon'", "environment variable PD_LIMITS_HEAD_S", "more than 0"):
        assert part in caught.value.message


@pytest.mark.parametrize(
    ("argv", "suggestion"),
    [
        (["--sever-port", "1"], "--server-port"),
        (["--polcy=random"], "--policy"),
        (["--server-admin-key", "x"], "--server-admin-key-file"),
        (["stray"], "belongs to no flag"),
        (["--port"], "--port"),
    ],
)
def test_an_unknown_flag_is_refused_with_a_suggestion(argv: list[str], suggestion: str) -> None:
    with pytest.raises(SettingsError, match=suggestion):
        read(argv)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[limit]\n", r"no section \[limit\]; did you mean limits"),
        ("[limits]\nbody_byte = 1\n", r"no limits.body_byte; did you mean limits.body_bytes"),
        ("limits = 1\n", r"write \[limits\]"),
        ("[limits\n", "not TOML"),
    ],
)
def test_an_unknown_key_of_the_file_is_refused_with_a_suggestion(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        loaded("--config", toml(tmp_path, text))


def test_a_missing_settings_file_is_named() -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml"):
        loaded(PD_CONFIG="absent.toml")


def test_a_misspelt_variable_is_told_of_and_others_are_left_alone() -> None:
    notices = loaded(PD_LIMITS_BODY_BYTE="1", PD_PROXY_SERVICE_HOST="10.0.0.1", HOME="/").notices
    assert [notice for notice in notices if "PD_" in notice] == [
        "environment variable PD_LIMITS_BODY_BYTE is no setting; did you mean PD_LIMITS_BODY_BYTES?"
    ]


def test_a_secret_comes_from_a_file_and_is_never_echoed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "key"
    path.write_text("s3cret\n")
    got = loaded("--server-admin-key-file", str(path), PD_UPSTREAM_API_KEY="s3cret")
    assert got.settings.server.admin_key is not None
    assert got.settings.server.admin_key.get_secret_value() == "s3cret"
    assert "s3cret" not in effective(got) + repr(got.settings)
    with pytest.raises(SettingsError) as caught:
        loaded(PD_SERVER_API_KEY="s3cret with spaces")
    assert "s3cret" not in caught.value.message


def test_a_secret_and_its_file_together_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("a")
    with pytest.raises(SettingsError, match=r"server\.admin_key is given twice"):
        loaded(PD_SERVER_ADMIN_KEY="b", PD_SERVER_ADMIN_KEY_FILE=str(path))


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--retries-initial-backoff-s", "5"], r"retries\.max_backoff_s"),
        (["--breaker-edge-open-s", "60"], r"breaker\.edge_open_max_s"),
        (["--discovery-user", "root"], r"discovery\.password"),
        (["--port", "7000", "--prometheus-port", "7000"], r"server\.metrics_port"),
        (["--prometheus-host", "::1"], r"server\.metrics_port"),
        (["--discovery-ca-file", "absent"], r"discovery\.ca_file"),
        (["--health-path", "health"], r"health\.path"),
        (["--decode", "ftp://a:1"], r"static\.decode"),
        (["--prefill", "http://a:1", "70000"], r"static\.prefill"),
        (["--prefill", "http://a:1", "8998", "9"], r"static\.prefill"),
        (["--limits-head-s", "nan"], r"limits\.head_s"),
        (["--port", "1", "--server-port", "2"], r"server\.port is given twice"),
    ],
)
def test_a_wrong_value_is_refused_by_name(argv: list[str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        loaded(*argv)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().server.port = 1  # type: ignore[misc]


def test_the_printed_config_gives_the_same_settings_back(tmp_path: Path) -> None:
    argv = [
        "--prefill",
        "http://a:1",
        "8998",
        "--prefill",
        "http://b:2",
        "none",
        "--decode",
        "http://c:3,http://d:4",
    ]
    first = loaded(*argv, "--etcd", "e0:2379,https://e1:2379", "--routing-compatible-versions", "1=2")
    again = loaded("--config", toml(tmp_path, effective(first)))
    assert again.settings == first.settings
    assert [str(url) for url in again.settings.discovery.etcd_endpoints] == [
        "http://e0:2379",
        "https://e1:2379",
    ]


def test_a_wrong_setting_ends_the_process_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--port", "x"]) == 2
    assert "server.port" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "said"), [("--help", "limits:"), ("--version", "pd-proxy "), ("--print-config", "[log]")]
)
def test_questions_are_answered_without_a_start(
    flag: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([flag]) == 0
    assert said in capsys.readouterr().out
