"""pd-worker over a stand-in for SGLang: ready, crashed, restarted, hanging, given up; real processes."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.workers import WorkerProcess, alive, make_engine_python, make_weights, start_worker

OUT_OF_MEMORY = [
    "[2026-11-24 10:00:01 TP0] Scheduler hit an exception: Traceback (most recent call last):",
    "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 2.00 GiB.",
    "[2026-11-24 10:00:01] Received sigquit from a child process. It usually means the child failed.",
]


@pytest.fixture(scope="module")
def sglang(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sglang")
    return make_engine_python(folder / "python"), make_weights(folder / "model")


def log_of(folder: Path, role: str = "decode", rank: int = 0) -> str:
    return (folder / f"{role}_NODE{rank}.log").read_text()


def scheduler_of(worker: WorkerProcess) -> int:
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in worker.tree()}
    return next(pid for pid, words in lines.items() if b"scheduler" in words)


@pytest.mark.parametrize("version", ["0.5.2", "0.5.23"])
@pytest.mark.parametrize("role", ["prefill", "decode"])
async def test_a_worker_becomes_ready_and_ends_with_zero_when_told(
    role: str, version: str, tmp_path: Path
) -> None:
    python, weights = make_engine_python(tmp_path / "python", version), make_weights(tmp_path / "model")
    logs = tmp_path / "logs"
    async with start_worker(python, weights, role, log_dir=logs) as worker:
        told = await worker.ready()
        assert (told["role"], told["version"], told["url"]) == (role, version, worker.url)
        everyone = worker.tree()
        assert len(everyone) >= 4  # lifeline, engine, scheduler, detokenizer
        worker.signal(signal.SIGTERM)
        assert await worker.ends() == 0
        assert not alive(everyone)
    fired_up = "The server is fired up"
    assert fired_up in log_of(logs, role)
    assert worker.told(fired_up), "the console shows it too"


async def test_a_killed_wrapper_leaves_no_process(sglang: tuple[Path, Path], tmp_path: Path) -> None:
    behaviour = {"stray": True, "ignores": ["SIGINT", "SIGTERM"]}
    async with start_worker(*sglang, log_dir=tmp_path, behaviour=behaviour) as worker:
        await worker.ready()
        everyone = worker.tree()
        assert len(everyone) >= 5
        worker.signal(signal.SIGKILL)
        await worker.ends()
        began_s = time.monotonic()
        while left := alive(everyone):
            assert time.monotonic() - began_s < 2, left


async def test_a_crash_is_restarted_and_told(sglang: tuple[Path, Path], tmp_path: Path) -> None:
    async with start_worker(*sglang, log_dir=tmp_path) as worker:
        await worker.ready()
        (engine,) = re.findall(r"engine: launched pid=(\d+)", "\n".join(worker.lines))
        os.kill(int(engine), signal.SIGKILL)
        await worker.says("ended by itself (SIGKILL)")
        await worker.ready(times=2)
        assert len(re.findall(r"engine: launched", "\n".join(worker.lines))) == 2
        status, text = await worker.control("/metrics")
        assert status == 200
        assert "pd_worker_crashes_total 1.0" in text


async def test_a_dead_scheduler_ends_a_life_and_is_named(sglang: tuple[Path, Path], tmp_path: Path) -> None:
    async with start_worker(*sglang, log_dir=tmp_path) as worker:
        await worker.ready()
        os.kill(scheduler_of(worker), signal.SIGKILL)
        await worker.says("its scheduler died")
        await worker.ready(times=2)


async def test_too_many_crashes_end_it_with_the_engines_own_code(
    sglang: tuple[Path, Path], tmp_path: Path
) -> None:
    behaviour = {"last_words": OUT_OF_MEMORY, "exit_code": 17, "lives": str(tmp_path / "lives")}
    async with start_worker(
        *sglang, "decode", "--crash-limit", "2", log_dir=tmp_path, behaviour=behaviour
    ) as worker:
        assert await worker.ends() == 17
    assert len((tmp_path / "lives").read_text().splitlines()) == 3
    said = worker.told("the GPU's memory is full")
    assert said is not None
    assert "HIP out of memory. Tried to allocate" in said
    assert "lower --mem-fraction-static" in said
    assert worker.told("giving up: too many crashes")


async def test_an_end_by_a_signal_is_told_as_a_shell_would(sglang: tuple[Path, Path], tmp_path: Path) -> None:
    async with start_worker(
        *sglang, "decode", "--crash-limit", "0", log_dir=tmp_path, behaviour={"hang": True}
    ) as worker:
        line = await worker.says("engine: launched")
        os.kill(int(re.findall(r"pid=(\d+)", line)[0]), signal.SIGKILL)
        assert await worker.ends() == 128 + signal.SIGKILL
    assert worker.told("waiting for the API")


async def test_an_engine_that_ends_well_unasked_is_a_failure(
    sglang: tuple[Path, Path], tmp_path: Path
) -> None:
    behaviour = {"dies_after_s": 0.1, "exit_code": 0}
    async with start_worker(
        *sglang, "decode", "--crash-limit", "0", log_dir=tmp_path, behaviour=behaviour
    ) as worker:
        assert await worker.ends() == 1


async def test_a_start_that_can_only_fail_again_is_not_tried_again(
    sglang: tuple[Path, Path], tmp_path: Path
) -> None:
    words = ["OSError: Can't load the configuration of '/models/none'."]
    behaviour = {"last_words": words, "exit_code": 1, "lives": str(tmp_path / "lives")}
    async with start_worker(*sglang, log_dir=tmp_path, behaviour=behaviour) as worker:
        assert await worker.ends() == 1
    assert len((tmp_path / "lives").read_text().splitlines()) == 1
    assert worker.told("the weights are not there", "Can't load the configuration")


async def test_a_crash_at_start_is_followed_by_a_start_that_works(
    sglang: tuple[Path, Path], tmp_path: Path
) -> None:
    words = ["ERROR: [Errno 98] error while attempting to bind on address: address already in use"]
    behaviour = {"last_words": words, "crash_lives": 2, "lives": str(tmp_path / "lives")}
    async with start_worker(*sglang, log_dir=tmp_path, behaviour=behaviour) as worker:
        await worker.ready()
        assert worker.told("a port is taken")
    assert len((tmp_path / "lives").read_text().splitlines()) == 3


async def test_a_start_that_hangs_is_ended_at_its_limit(sglang: tuple[Path, Path], tmp_path: Path) -> None:
    flags = ["--start-limit-s", "0.5", "--crash-limit", "0", "--interrupt-limit-s", "0.2"]
    behaviour = {"hang": True, "ignores": ["SIGINT", "SIGTERM"]}
    async with start_worker(
        *sglang, "decode", *flags, "--terminate-limit-s", "0.2", log_dir=tmp_path, behaviour=behaviour
    ) as worker:
        assert await worker.ends() == 124
    assert worker.told("not ready within 0.5 s: waiting for the API")


async def test_an_engine_that_falls_silent_is_ended_and_started_again(
    sglang: tuple[Path, Path], tmp_path: Path
) -> None:
    flags = ["--hang-limit-s", "1", "--interrupt-limit-s", "0.2", "--terminate-limit-s", "0.2"]
    async with start_worker(*sglang, "decode", *flags, log_dir=tmp_path) as worker:
        await worker.ready()
        line = worker.told("engine: launched")
        assert line is not None
        os.kill(int(re.findall(r"pid=(\d+)", line)[0]), signal.SIGSTOP)
        await worker.says("hangs: silent for 1 s")
        await worker.ready(times=2)


@pytest.mark.parametrize("moment", ["starting", "waiting"])
async def test_a_worker_that_serves_nobody_yet_ends_at_once_with_zero(
    moment: str, sglang: tuple[Path, Path], tmp_path: Path
) -> None:
    behaviours: dict[str, dict[str, Any]] = {
        "starting": {"hang": True},
        "waiting": {"last_words": ["Something new"], "exit_code": 5},
    }
    async with start_worker(
        *sglang, "decode", "--restart-wait-s", "60", log_dir=tmp_path, behaviour=behaviours[moment]
    ) as worker:
        await worker.says("engine: launched" if moment == "starting" else "engine: starting again")
        worker.signal(signal.SIGINT)
        assert await worker.ends() == 0


async def test_a_taken_control_port_is_one_clear_line_and_nothing_is_launched(
    sglang: tuple[Path, Path], tmp_path: Path
) -> None:
    async with start_worker(*sglang, log_dir=tmp_path) as first:
        port = (await first.ready())["control"].rsplit(":", 1)[1]
        async with start_worker(*sglang, "decode", "--control-port", port, log_dir=tmp_path / "2") as second:
            assert await second.ends() == 3
        assert second.told(f"cannot listen on 127.0.0.1:{port}")
        assert not second.told("engine: launched")


async def test_another_rank_supervises_and_serves_nothing(sglang: tuple[Path, Path], tmp_path: Path) -> None:
    flags = ["--nnodes", "2", "--node-rank", "1", "--tp-size", "2", "--dist-init-addr", "127.0.0.1:5000"]
    async with start_worker(*sglang, "decode", *flags, log_dir=tmp_path) as worker:
        await worker.says("engine: launched")
        everyone = worker.tree()
        worker.signal(signal.SIGTERM)
        await worker.says("leaving")
        worker.signal(signal.SIGTERM)
        assert await worker.ends() == 0
        assert not alive(everyone)
    assert not worker.told("pd-worker ready")


async def test_a_stalled_console_does_not_stall_the_worker(sglang: tuple[Path, Path], tmp_path: Path) -> None:
    behaviour = {"chatter": 10_000}
    async with start_worker(*sglang, log_dir=tmp_path, behaviour=behaviour, reads_console=False) as worker:
        log = tmp_path / "decode_NODE0.log"
        deadline_s = time.monotonic() + 40
        while not log.exists() or log.stat().st_size < 200_000:  # three times what a pipe holds
            assert time.monotonic() < deadline_s
            await worker.pause()
        worker.signal(signal.SIGTERM)
        assert await worker.ends() == 0
