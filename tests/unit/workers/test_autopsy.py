"""The end of a log tells why an engine ended: the cause before its consequences, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.autopsy import examine

DIED = "[2026-11-24 10:00:02] Received sigquit from a child process. It usually means the child failed."
TRACE = "[2026-11-24 10:00:01 TP0] Scheduler hit an exception: Traceback (most recent call last):"

ENDS = [
    ("launch_server.py: error: unrecognized arguments: --stream-output", "bad_flag", True),
    ("pd-worker: cannot run /opt/none/python: No such file or directory", "no_interpreter", True),
    ("/usr/bin/python3: No module named sglang", "no_sglang", True),
    ("ModuleNotFoundError: No module named 'sglang'", "no_sglang", True),
    (
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.",
        "memory_fraction",
        False,
    ),
    ("torch.OutOfMemoryError: HIP out of memory. Tried to allocate 2.00 GiB. GPU 0", "gpu_memory", False),
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 64.00 MiB", "gpu_memory", False),
    ("ValueError: Invalid IB devices specified: ['mlx5_9']. Available devices: []", "rdma_device", True),
    ("RuntimeError: InfiniBand sysfs path not found: /sys/class/infiniband", "rdma_device", True),
    ("RuntimeError: Mooncake Transfer Engine initialization failed.", "mooncake", False),
    (
        "ERROR: [Errno 98] error while attempting to bind on address ('0.0.0.0', 30000): "
        "address already in use",
        "port_taken",
        False,
    ),
    ("RuntimeError: No HIP GPUs are available", "no_gpu", True),
    ("RuntimeError: CUDA error: no kernel image is available for execution", "gpu_architecture", True),
    ("OSError: Can't load the configuration of '/models/none'. If you were", "weights_missing", True),
    ("RuntimeError: Cannot find any model weights with `/models/empty`", "weights_missing", True),
    (
        "AssertionError: Attempted to load weight (torch.Size([1])) into parameter (torch.Size([2]))",
        "weights_broken",
        True,
    ),
    ("OSError: [Errno 28] No space left on device", "disk_full", False),
    ("OSError: [Errno 24] Too many open files", "nofile", False),
    ("torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp", "collective", False),
    ("Watchdog timeout (self.watchdog_timeout=300)", "watchdog", False),
]


@pytest.mark.parametrize(("line", "slug", "hopeless"), ENDS)
def test_a_known_end_is_named_before_what_follows_from_it(line: str, slug: str, hopeless: bool) -> None:
    found = examine("\n".join(["loading weights", TRACE, line, DIED]), -9)
    assert found is not None
    assert (found.finding.slug, found.finding.hopeless) == (slug, hopeless)
    assert found.evidence == line
    assert "\n" not in str(found)


@pytest.mark.parametrize(
    "said", [DIED, TRACE, "Rank 0 scheduler is dead. Please check if there are relevant logs."]
)
def test_a_dead_scheduler_without_a_cause_is_just_that(said: str) -> None:
    found = examine(f"loading\n{said}", -9)
    assert found is not None
    assert found.finding.slug == "scheduler_died"


def test_a_kill_without_a_word_is_told_as_one() -> None:
    found = examine("Decode batch, #running-req: 3", -9)
    assert found is not None
    assert found.finding.slug == "killed"
    assert "dmesg" in str(found)


def test_what_is_not_known_is_not_guessed() -> None:
    assert examine("Decode batch, #running-req: 3", 1) is None
    assert examine("", None) is None


def test_every_cause_is_documented() -> None:
    docs = (Path(__file__).resolve().parents[3] / "docs" / "workers-running.md").read_text()
    known = {slug for _, slug, _ in ENDS} | {"memlock", "scheduler_died", "killed"}
    assert [slug for slug in sorted(known) if f"`{slug}`" not in docs] == []
