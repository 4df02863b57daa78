"""The images, built once for all tests. Minutes: `make test-images`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.building import Store, context_of, machine_secrets, require_tools
from tests.images.standins import make_python_image, make_worker_base, put_downloads

ETCD, PROXY, WORKER = "pd-etcd", "pd-proxy", "sglang_disagg_pd_image"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Room for images: gigabytes, which go with the session."""
    require_tools()
    made = tmp_path_factory.mktemp("images")
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session")
def context(folder: Path) -> Path:
    """What `docker build` is given."""
    return context_of(folder / "context")


@pytest.fixture(scope="session")
def secrets(folder: Path) -> list[str]:
    """Flags of the build."""
    return machine_secrets(folder)


@pytest.fixture(scope="session")
def store(folder: Path, context: Path, secrets: list[str]) -> Iterator[Store]:
    """Holds the stand-ins and all three images."""
    made = Store(folder / "store")
    try:
        _build_all(made, folder, context, secrets)
        yield made
    finally:
        made.close()


def _build_all(made: Store, folder: Path, context: Path, secrets: list[str]) -> None:
    for name in ("python-image", "worker-base", "downloads"):
        (folder / name).mkdir()
    make_python_image(made, folder / "python-image")
    base = make_worker_base(made, folder / "worker-base")
    put_downloads(context, base, folder / "downloads")
    made.build(context, ETCD, "--target", "etcd", *secrets)
    made.build(context, PROXY, "--target", "proxy", *secrets, "--build-arg", "REVISION=abc")
    made.build(context, WORKER, *secrets)
