from __future__ import annotations

from pathlib import Path

import pytest

from proxy.errors import SettingsError
from proxy.roster import Role
from workers.settings import read_settings


def test_flags_beat_environment_beats_file_beats_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "worker.toml"
    file.write_text('tp_size = 2\ndp_size = 2\nmodel = "file"\nrole = "prefill"\n')
    monkeypatch.setenv("PD_WORKER_DP_SIZE", "3")
    monkeypatch.setenv("PD_WORKER_MODEL", "environment")
    found = read_settings(["--config", str(file), "--model", "flag"])
    assert (found.model, found.dp_size, found.tp_size, found.page_size) == ("flag", 3, 2, 16)
    assert found.engine_config().role is Role.PREFILL


def test_both_names_of_a_renamed_flag_are_understood() -> None:
    assert read_settings(["--stream-output"]).incremental_streaming_output
    assert read_settings(["--incremental-streaming-output"]).incremental_streaming_output
    assert read_settings(["--disaggregation-bootstrap-port", "8998"]).bootstrap_port == 8998


def test_etcd_endpoints_are_separated_by_commas() -> None:
    rules = read_settings(["--etcd-endpoints", "http://a:1, http://b:2"]).etcd_rules()
    assert rules is not None
    assert rules.endpoints == ("http://a:1", "http://b:2")
    assert read_settings([]).etcd_rules() is None


@pytest.mark.parametrize("text", ["tp_size = 0", "tp_sise = 1", "tp_size ="])
def test_a_wrong_file_is_refused_with_the_settings_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "worker.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"tp_si[sz]e|config"):
        read_settings(["--config", str(file)])
