"""A worker in a real etcd: registered when it is ready, gone when it is not, one key whatever happens."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from proxy.roster import State
from tests.contract.registry_fleet import until
from tests.flow.talk import GENERATE, PROMPT, ask
from tests.support.engines import expected
from tests.support.etcd import Etcd, etcd_server
from tests.support.proxies import eventually, start_proxy
from tests.support.workers import WorkerProcess, in_registry, make_engine_python, make_weights, start_worker

__all__ = ["etcd_server"]


@pytest.fixture(scope="module")
def sglang(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sglang")
    return make_engine_python(folder / "python"), make_weights(folder / "model")


def engine_pid(worker: WorkerProcess) -> int:
    """Of its last life."""
    return int(re.findall(r"engine: launched pid=(\d+)", "\n".join(worker.lines))[-1])


def flags(server: Etcd, *more: str) -> list[str]:
    return ["--etcd-endpoints", server.url, *more]


async def test_what_is_registered_is_what_runs(
    etcd_server: Etcd, sglang: tuple[Path, Path], tmp_path: Path
) -> None:
    more = flags(etcd_server, "--", "--max-running-requests", "48")
    async with start_worker(*sglang, "prefill", *more, log_dir=tmp_path) as worker:
        told = await worker.ready()
        await until(lambda: in_registry(etcd_server))
        (found,) = in_registry(etcd_server)
        assert (found.url, found.role, found.state) == (worker.url, "prefill", State.READY)
        assert (found.bootstrap_host, found.bootstrap_port) == ("127.0.0.1", worker.bootstrap_port)
        assert (found.engine, found.engine_version, found.transfer_backend) == (
            "sglang",
            "0.5.23",
            "mooncake",
        )
        assert (found.max_running_requests, found.max_total_tokens) == (48, 8_388_608)
        assert (found.tp_size, found.dp_size) == (1, 1)
        assert (found.control_url, found.worker_id) == (told["control"], told["worker_id"])
        assert found.node
        assert found.instance
        assert found.weights_fingerprint
        text = (await worker.control("/metrics"))[1]
        assert "pd_worker_registered 1.0" in text
        assert re.search(r"pd_worker_lease_age_seconds [0-9.]+", text)
        worker.signal(signal.SIGTERM)
        assert await worker.ends() == 0
    assert in_registry(etcd_server) == []


async def test_nothing_is_registered_before_it_is_ready(
    etcd_server: Etcd, sglang: tuple[Path, Path], tmp_path: Path
) -> None:
    behaviour = {"startup_s": 1.0}
    async with start_worker(
        *sglang, "decode", *flags(etcd_server), log_dir=tmp_path, behaviour=behaviour
    ) as worker:
        while not worker.told("pd-worker ready"):
            found = in_registry(etcd_server)
            assert not found or worker.told("pd-worker ready") or found[0].state is State.READY
            assert not found or "fired up" in (tmp_path / "decode_NODE0.log").read_text()
            await worker.pause()


async def test_a_failing_canary_keeps_a_worker_out_of_the_registry(
    etcd_server: Etcd, sglang: tuple[Path, Path], tmp_path: Path
) -> None:
    """Its API answers, and it cannot generate."""
    behaviour = {"engine": {"prefill_tokens_per_s": 0.001}}
    more = flags(etcd_server, "--canary-limit-s", "0.3", "--crash-limit", "0")
    async with start_worker(*sglang, "prefill", *more, log_dir=tmp_path, behaviour=behaviour) as worker:
        assert await worker.ends() == 1
        assert worker.told("not fit to serve", "canary"), worker.lines
        assert in_registry(etcd_server) == []


async def test_a_crash_withdraws_at_once_and_the_next_life_is_another_instance(
    etcd_server: Etcd, sglang: tuple[Path, Path], tmp_path: Path
) -> None:
    more = flags(etcd_server, "--restart-wait-s", "3", "--registry-ttl-s", "60")
    async with start_worker(*sglang, "decode", *more, log_dir=tmp_path) as worker:
        await worker.ready()
        await until(lambda: in_registry(etcd_server))
        (before,) = in_registry(etcd_server)
        os.kill(engine_pid(worker), signal.SIGKILL)
        assert await until(lambda: not in_registry(etcd_server)) < 10  # of a TTL of 60 s
        await worker.ready(times=2)
        await until(lambda: in_registry(etcd_server))
        (after,) = in_registry(etcd_server)
        assert after.worker_id == before.worker_id
        assert after.instance != before.instance


async def test_a_successor_takes_the_key_of_a_killed_wrapper_over(
    etcd_server: Etcd, sglang: tuple[Path, Path], tmp_path: Path
) -> None:
    more = flags(etcd_server, "--worker-id", "w1", "--registry-ttl-s", "120")
    async with start_worker(*sglang, "decode", *more, log_dir=tmp_path) as first:
        await first.ready()
        await until(lambda: in_registry(etcd_server))
        (before,) = in_registry(etcd_server)
        first.signal(signal.SIGKILL)
        await first.ends()
    assert in_registry(etcd_server) == [before], "nobody withdrew it"
    async with start_worker(*sglang, "decode", *more, log_dir=tmp_path) as second:
        await second.ready()
        await until(lambda: [one.url for one in in_registry(etcd_server)] == [second.url])
        await second.says("taking over")


async def test_an_etcd_that_dies_and_comes_back_empty_gets_the_worker_anew(
    etcd_server: Etcd, sglang: tuple[Path, Path], tmp_path: Path
) -> None:
    more = flags(etcd_server, "--registry-ttl-s", "3")
    async with start_worker(*sglang, "decode", *more, log_dir=tmp_path) as worker:
        await worker.ready()
        await until(lambda: in_registry(etcd_server))
        etcd_server.kill()
        status, _ = await worker.control("/health")
        assert status == 200, "the engine serves, etcd or not"
        await etcd_server.restart(empty=True)
        await until(lambda: in_registry(etcd_server), 30)


async def test_a_worker_starts_and_ends_without_its_etcd(
    etcd_server: Etcd, sglang: tuple[Path, Path], tmp_path: Path
) -> None:
    etcd_server.stop()
    async with start_worker(*sglang, "decode", *flags(etcd_server), log_dir=tmp_path) as worker:
        await worker.ready()
        worker.signal(signal.SIGTERM)
        assert await worker.ends() == 0


async def test_another_rank_is_not_registered(
    etcd_server: Etcd, sglang: tuple[Path, Path], tmp_path: Path
) -> None:
    more = flags(
        etcd_server,
        "--nnodes",
        "2",
        "--node-rank",
        "1",
        "--tp-size",
        "2",
        "--dist-init-addr",
        "127.0.0.1:5000",
    )
    async with start_worker(*sglang, "decode", *more, log_dir=tmp_path) as worker:
        await worker.says("engine: launched")
        deadline_s = time.monotonic() + 1.5
        while time.monotonic() < deadline_s:
            assert in_registry(etcd_server) == []
            await worker.pause()


async def test_requests_flow_through_workers_that_the_proxy_has_found(
    etcd_server: Etcd, sglang: tuple[Path, Path], tmp_path: Path
) -> None:
    discovery = {"etcd_endpoints": [etcd_server.url]}
    async with (
        start_worker(*sglang, "prefill", *flags(etcd_server), log_dir=tmp_path) as prefill,
        start_worker(*sglang, "decode", *flags(etcd_server), log_dir=tmp_path) as decode,
        start_proxy(discovery=discovery, routing={"slow_start_s": 0}) as proxy,
    ):
        await eventually(lambda: proxy.service.unready() is None, 40)
        body = {"text": PROMPT, "sampling_params": {"max_new_tokens": 6}}
        answer = await ask(proxy.http, GENERATE, body)
        assert (answer.status, answer.json["text"]) == (200, expected(PROMPT, 6))
        for worker in (decode, prefill):
            os.kill(engine_pid(worker), signal.SIGKILL)
            await worker.ready(times=2)
        await eventually(lambda: proxy.service.unready() is None, 40)
        answer = await ask(proxy.http, GENERATE, body)
        assert (answer.status, answer.json["text"]) == (200, expected(PROMPT, 6))


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_fifty_restarts_in_a_row_leave_one_key(
    etcd_server: Etcd, sglang: tuple[Path, Path], tmp_path: Path
) -> None:
    more = flags(etcd_server, "--crash-limit", "60", "--restart-wait-s", "0", "--registry-ttl-s", "60")
    async with start_worker(*sglang, "decode", *more, log_dir=tmp_path) as worker:
        for number in range(1, 51):
            await worker.ready(times=number)
            await until(lambda: in_registry(etcd_server))
            os.kill(engine_pid(worker), signal.SIGKILL)
            assert len(in_registry(etcd_server)) <= 1
        await worker.ready(times=51)
        await until(lambda: in_registry(etcd_server))
        assert len(in_registry(etcd_server)) == 1
        leases = etcd_server.call("/v3/lease/leases", {}).get("leases", [])
        assert len(leases) == 1
        assert len(worker.tree()) == 4
