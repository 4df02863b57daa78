"""Why an engine ended, read from the end of its log: one line, and what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """A cause that is known."""

    slug: str
    """Stable, for programs: listed in docs/workers-running.md."""
    cause: str
    advice: str
    hopeless: bool = False
    """Another start would end the same way."""


@dataclass(frozen=True, slots=True)
class Autopsy:
    """What was found, and the line of the log that says so."""

    finding: Finding
    evidence: str

    def __str__(self) -> str:
        """In one line."""
        said = f" ({self.evidence})" if self.evidence else ""
        return f"{self.finding.cause}{said}; {self.finding.advice}"


_LINE_CHARACTERS = 240

# In the order of how much they tell: a scheduler that died of a full GPU says both.
# Wordings: SGLang 0.5.2 and 0.5.23, torch 2.x, transformers, huggingface_hub, Mooncake 0.3.
_KNOWN: tuple[tuple[str, Finding], ...] = (
    (
        r"unrecognized arguments|launch_server\.py: error:|error: (argument --|the following arguments)",
        Finding(
            "bad_flag", "it does not know a flag", "mend the flags (pd-worker --dry-run shows them)", True
        ),
    ),
    (
        r"cannot run .*: (No such file|Permission denied)",
        Finding("no_interpreter", "its interpreter cannot be run", "set --engine-python", True),
    ),
    (
        r"No module named '?sglang\b|Error while finding module specification for 'sglang",
        Finding("no_sglang", "SGLang is not installed there", "set --engine-python to one that has it", True),
    ),
    (
        r"Not enough memory\. Please try to increase --mem-fraction-static",
        Finding(
            "memory_fraction",
            "the weights leave no room for KV within its share of the GPU",
            "raise --mem-fraction-static, or use more GPUs (--tp-size)",
        ),
    ),
    (
        r"(CUDA|HIP|GPU) out of memory|OutOfMemoryError|hipErrorOutOfMemory|CUDA_ERROR_OUT_OF_MEMORY",
        Finding(
            "gpu_memory",
            "the GPU's memory is full",
            "lower --mem-fraction-static, or see who else holds it (rocm-smi, nvidia-smi)",
        ),
    ),
    (
        r"Cannot allocate memory.*(ibv|reg_mr|memory region)"
        r"|(ibv_reg_mr|register memory).*(failed|[Cc]annot)",
        Finding("memlock", "RDMA cannot pin memory", "raise the memlock limit (ulimit -l unlimited)", True),
    ),
    (
        r"[Ii]nvalid IB devices|InfiniBand sysfs path not found|No IB devices found|No matched device found"
        r"|Failed to open (IB|RDMA|device mlx)|No available RNIC",
        Finding(
            "rdma_device",
            "an RDMA device is missing",
            "see pd-worker doctor, and name those of /sys/class/infiniband with --ib-devices",
            True,
        ),
    ),
    (
        r"Mooncake Transfer Engine initialization failed|[Pp]lease install mooncake",
        Finding("mooncake", "Mooncake did not start", "see pd-worker doctor, and the lines before it"),
    ),
    (
        r"[Aa]ddress already in use|EADDRINUSE|Errno 98|[Pp]ort \d+ is (not available|already|in use)",
        Finding("port_taken", "a port is taken", "end who holds it (ss -ltnp), or choose another"),
    ),
    (
        r"No (CUDA|HIP) GPUs are available|Found no NVIDIA driver|no (CUDA|ROCm)-capable device",
        Finding("no_gpu", "it sees no GPU", "see /dev/kfd and /dev/dri, and HIP_/CUDA_VISIBLE_DEVICES", True),
    ),
    (
        r"no kernel image is available|invalid device function|HSA_STATUS_ERROR_INVALID_ISA",
        Finding(
            "gpu_architecture", "it is not built for this GPU", "use an image for this architecture", True
        ),
    ),
    (
        r"Cannot find any model weights|does not appear to have a file named|Can't load the configuration of"
        r"|RepositoryNotFoundError|LocalEntryNotFoundError|HFValidationError|couldn't connect to .*hugging"
        r"|Incorrect path_or_model_id|No such file or directory: '[^']*(config\.json|safetensors|\.bin)",
        Finding(
            "weights_missing", "the weights are not there", "see --model and its folder on this node", True
        ),
    ),
    (
        r"Attempted to load weight|size mismatch for|KeyError: '[\w.]*\.weight'"
        r"|safetensors_rust|MetadataIncomplete",
        Finding(
            "weights_broken",
            "the weights do not fit the model",
            "copy them again, and compare their sizes",
            True,
        ),
    ),
    (
        r"No space left on device|Bus error",
        Finding(
            "disk_full", "a disk or /dev/shm is full", "free some, or start the container with --shm-size"
        ),
    ),
    (
        r"Too many open files",
        Finding("nofile", "too many open files", "raise the nofile limit (ulimit -n 1048576)"),
    ),
    (
        r"[NR]CCL error|nccl(System|Unhandled|Internal|Remote)\w*Error|ProcessGroupNCCL.*(timeout|abort)",
        Finding(
            "collective",
            "the GPUs could not talk to each other",
            "see NCCL_DEBUG=INFO, and the other ranks' logs",
        ),
    ),
    (
        r"Watchdog (caught|timeout)|watchdog timeout",
        Finding("watchdog", "SGLang's watchdog found the scheduler stuck", "see the stacks in the log"),
    ),
    (
        r"scheduler is dead|Scheduler hit an exception|Received sigquit from a child process"
        r"|Initialization failed\. Please see the error|[Cc]hild process unexpectedly failed",
        Finding("scheduler_died", "its scheduler died", "see the first error in the log"),
    ),
)
_PATTERNS = tuple((re.compile(pattern), finding) for pattern, finding in _KNOWN)

_KILLED = Finding(
    "killed", "something sent it SIGKILL", "most often the kernel, out of host memory: see dmesg"
)


def examine(tail: str, returncode: int | None) -> Autopsy | None:
    """The cause, where it is known.

    Args:
        tail: the end of the log of this life.
        returncode: of the engine; negative for a signal, None if it was alive.
    """
    lines = tail.splitlines()
    for pattern, finding in _PATTERNS:
        for line in lines:
            if pattern.search(line):
                return Autopsy(finding, line.strip()[:_LINE_CHARACTERS])
    return Autopsy(_KILLED, "") if returncode == -9 else None
