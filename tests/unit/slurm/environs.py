"""What users export, for tests."""

from __future__ import annotations

from deploy.slurm.job.layout import Place, places
from deploy.slurm.job.settings import JobSettings, read_settings

RECIPE = {
    "DOCKER_IMAGE_NAME": "sglang_disagg_pd_image",
    "xP": "2",
    "yD": "2",
    "MODEL_NAME": "Qwen3-32B",
    "MODEL_DIR": "/shared/models",
    "LOG_PATH": "/shared/logs",
    "SLURM_JOB_ID": "77",
}


def settings(**more: str) -> JobSettings:
    """The recipe's, with changes; an empty value takes a variable away."""
    return read_settings(RECIPE | more)


def placed(of: JobSettings) -> tuple[Place, ...]:
    """Its nodes, called n1, n2 and so on."""
    return places(of, [f"n{number + 1}" for number in range(of.nodes)])
