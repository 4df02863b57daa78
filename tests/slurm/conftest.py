"""A cluster for all tests of the Slurm job, a model's folder and a list of jobs for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, Job, cluster
from tests.slurm.scenes import NODES


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("slurm"), NODES) as running:
        yield running


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder of models, as far as anybody looks into it."""
    folder = tmp_path / "models" / "Qwen3-32B"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder.parent


@pytest.fixture
def jobs(slurm: Cluster) -> Iterator[list[Job]]:
    """The jobs of a test; whatever becomes of it, none is left."""
    submitted: list[Job] = []
    yield submitted
    for job in submitted:
        job.cancel()
    slurm.mend()
