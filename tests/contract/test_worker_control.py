"""The worker's own port: who may read, who may order, and what it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.workers import make_engine_python, make_weights, start_worker

DOCS = Path(__file__).resolve().parents[2] / "docs" / "workers-running.md"


@pytest.fixture(scope="module")
def sglang(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sglang")
    return make_engine_python(folder / "python"), make_weights(folder / "model")


async def test_only_loopback_or_the_key_orders_a_drain(sglang: tuple[Path, Path], tmp_path: Path) -> None:
    """A proxy on this host that speaks for somebody else is not loopback."""
    elsewhere = {"X-Forwarded-For": "10.0.0.9"}
    key = "sesame-1"
    async with start_worker(*sglang, "decode", "--control-key", key, log_dir=tmp_path) as worker:
        for headers in (elsewhere, elsewhere | {"Authorization": "Bearer wrong"}):
            status, text = await worker.control("/drain", "POST", headers=headers)
            assert status == 403
            assert "Bearer" in text
        assert (await worker.control("/health"))[0] == 200
        assert (await worker.control("/drain"))[0] == 405
        headers = elsewhere | {"Authorization": f"Bearer {key}"}
        assert (await worker.control("/drain", "POST", headers=headers))[0] == 202
        assert await worker.ends() == 0


async def test_the_plan_is_shown_without_secrets(sglang: tuple[Path, Path], tmp_path: Path) -> None:
    async with start_worker(
        *sglang, "decode", "--control-key", "sesame-1", "--api-key", "sesame-2", log_dir=tmp_path
    ) as worker:
        status, text = await worker.control("/plan")
        assert status == 200
        assert "sglang.launch_server" in text
        assert "sesame" not in text


async def test_others_are_told_the_address_at_which_the_port_is(
    sglang: tuple[Path, Path], tmp_path: Path
) -> None:
    async with start_worker(*sglang, "decode", "--control-host", "127.0.0.2", log_dir=tmp_path) as worker:
        told = await worker.ready()
        assert (told["url"], told["control"].rpartition(":")[0]) == (worker.url, "http://127.0.0.2")
        assert (await worker.control("/health"))[0] == 200
    async with start_worker(*sglang, "decode", "--control-host", "0.0.0.0", log_dir=tmp_path) as worker:
        assert (await worker.ready())["control"].startswith("http://127.0.0.1:")


async def test_every_metric_is_documented_and_every_documented_one_is_there(
    sglang: tuple[Path, Path], tmp_path: Path
) -> None:
    async with start_worker(*sglang, "prefill", log_dir=tmp_path) as worker:
        text = (await worker.control("/metrics"))[1]
    shown = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    told = set(re.findall(r"^\| `(pd_worker_\w+)`", DOCS.read_text(), re.MULTILINE))
    registry_only = {"pd_worker_registered", "pd_worker_lease_age_seconds"}
    assert shown == told - registry_only
    assert registry_only <= told
