"""Workers from the settings."""

from __future__ import annotations

import pytest

from proxy.discovery.static import static_workers
from proxy.errors import SettingsError
from proxy.roster import Origin, Role


def test_workers_are_named_by_role_host_and_port() -> None:
    prefill, other, decode = static_workers(
        [("http://10.0.0.1:30000/", 8998), ("http://p2:30000", None)], ["http://[::1]:30001"], model="m"
    )
    assert (prefill.worker_id, prefill.url) == ("prefill-10.0.0.1-30000", "http://10.0.0.1:30000")
    assert (prefill.role, prefill.bootstrap_port, prefill.model) == (Role.PREFILL, 8998, "m")
    assert other.bootstrap_port is None
    assert (decode.worker_id, decode.role, decode.origin) == ("decode-::1-30001", Role.DECODE, Origin.STATIC)


@pytest.mark.parametrize("url", ["10.0.0.1:30000", "http://h", "http://h:1/v1", "http://h:x", ""])
def test_a_wrong_url_is_named(url: str) -> None:
    with pytest.raises(SettingsError, match="--decode " + url):
        static_workers([], [url])


def test_a_wrong_bootstrap_port_is_named() -> None:
    with pytest.raises(SettingsError, match="70000"):
        static_workers([("http://h:1", 70000)], [])


def test_the_same_worker_twice_is_refused() -> None:
    with pytest.raises(SettingsError, match="twice"):
        static_workers([], ["http://h:1", "http://h:1/"])
