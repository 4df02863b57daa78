"""What is in the images, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.images.building import Store, files_below
from tests.images.conftest import ETCD, PROXY, WORKER
from tests.images.standins import PYTHON_IMAGE, WORKER_BASE

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

OURS = "opt/pd"
PYTHONS = ("usr/lib/python3", "usr/lib/python3.11", "usr/local/lib", "usr/bin", "trap")


@pytest.mark.parametrize("image", [PROXY, WORKER])
def test_nothing_but_the_package_comes_from_the_work_tree(store: Store, image: str) -> None:
    with store.root_of(image) as root:
        found = {path.name for path in (root / OURS).iterdir()}
        assert found - {"python", "etcd"} == {
            ".venv", "LICENSE", "README.md", "deploy", "proxy", "workers",
            "pyproject.toml", "requirements.lock", "requirements-runtime.lock",
        }  # fmt: skip
        assert not (root / OURS / "deploy/images/offline").exists(), "downloads are for the build only"
        version = "313" if image == PROXY else "311"
        compiled = [path.name for path in (root / OURS / "proxy").rglob("*.pyc")]
        assert compiled
        assert [name for name in compiled if f"cpython-{version}" not in name] == []


@pytest.mark.parametrize(("image", "base"), [(PROXY, PYTHON_IMAGE), (WORKER, WORKER_BASE)])
def test_no_cache_and_no_secret_is_left(store: Store, image: str, base: str) -> None:
    with store.root_of(base) as root:
        before = files_below(root, ["."])
    with store.root_of(image) as root:
        added = [name for name in files_below(root, ["."]) if name not in before]
    left = ("tmp/", "root/", "run/secrets", "var/cache", "var/lib/apt/lists", "var/log")
    assert [name for name in added if name.startswith(left)] == []
    assert [name for name in added if "/setuptools" in name and ".venv" in name] == []
    assert [name for name in added if "/pip/" in name and ".venv" in name] == []


def test_the_bases_python_and_its_packages_stay_as_they_were(store: Store) -> None:
    with store.root_of(WORKER_BASE) as root:
        before = files_below(root, PYTHONS)
    with store.root_of(WORKER) as root:
        after = files_below(root, PYTHONS)
    assert "usr/lib/python3/dist-packages/sglang/launch_server.py" in before
    changed = {name for name, status in before.items() if after.get(name) != status}
    assert changed == set()
    # ibverbs-utils and etcd come beside; nothing comes into a folder of Python.
    assert [name for name in after if name not in before and not name.startswith("usr/bin/ibv_")] == []


def test_images_say_what_they_are(store: Store) -> None:
    proxy, worker, etcd = (store.describe(image) for image in (PROXY, WORKER, ETCD))
    for image in (proxy, worker, etcd):
        assert image["Labels"]["org.opencontainers.image.title"]
    assert proxy["Labels"]["org.opencontainers.image.revision"] == "abc"
    assert worker["Labels"]["org.opencontainers.image.base.name"] == WORKER_BASE
    assert proxy["User"] == etcd["User"] == "65532:65532", "as deploy/kubernetes runs them"
    assert proxy["Entrypoint"] == ["pd-proxy"]
    assert etcd["Entrypoint"] == ["etcd"]
    # why: the Slurm job gives whole command lines.
    assert not worker["Entrypoint"]
    assert "PYTHONPATH=/trap" in worker["Env"], "the base's variables stay"


def test_what_the_base_has_is_not_installed_again(
    store: Store, context: Path, secrets: list[str], tmp_path: Path
) -> None:
    """RDMA and etcd are there on an image of ours, so that apt, which could do nothing, is not asked."""
    (tmp_path / "sources.list").write_text("deb http://127.0.0.1:9/none none main\n")
    flags = ["--secret", f"id=apt,src={tmp_path / 'sources.list'}", "--build-arg", f"WORKER_BASE={WORKER}"]
    store.build(context, "again", *secrets, *flags)
    with pytest.raises(AssertionError, match=r"127\.0\.0\.1"):
        store.build(context, "never", *secrets, *flags, "--build-arg", f"WORKER_BASE={PYTHON_IMAGE}")


def test_a_file_with_another_checksum_ends_the_build(store: Store, context: Path, secrets: list[str]) -> None:
    (archive,) = (context / "deploy/images/offline").glob("etcd-*")
    whole = archive.read_bytes()
    try:
        archive.write_bytes(whole + b"\0")
        with pytest.raises(AssertionError, match="SHA-256"):
            store.build(context, "never", "--target", "etcd", *secrets)
    finally:
        archive.write_bytes(whole)
