"""Builds the Dockerfile with buildah, which needs no daemon: only chroot, and overlay mounts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.unit.deploy.needed import ROOT, missing, program

INSTALL = "apt-get install --no-install-recommends buildah mmdebstrap crun"
BUILD_S = 900
SOURCE = ("LICENSE", "README.md", "pyproject.toml", "requirements.lock", "requirements-runtime.lock")
FOLDERS = ("proxy", "workers", "deploy")


def require_tools() -> None:
    """Skips without the programs, or the rights, that images need."""
    for name in ("buildah", "mmdebstrap", "crun", "unshare"):
        program(name, INSTALL)
    if os.geteuid() != 0:
        missing("images are built and run as root")


class Store:
    """buildah's images, in a folder that goes with the test."""

    def __init__(self, folder: Path) -> None:
        self._root = folder / "root"
        self._buildah = ["buildah", "--storage-driver", "overlay"]
        self._buildah += ["--root", str(self._root), "--runroot", str(folder / "run")]

    def run(self, *words: str) -> str:
        """A command of buildah; its output.

        Raises:
            AssertionError: it failed; says what it said.
        """
        environ = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
        command = ["nice", "-n", "15", *self._buildah, *words]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=BUILD_S, env=environ
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-3000:]}{done.stderr[-6000:]}"
        return done.stdout

    def build(self, context: Path, tag: str, *flags: str) -> None:
        """`docker build -t tag flags context`; nothing is pulled."""
        self.run(
            "bud",
            "--layers",
            "--quiet",
            "--format",
            "docker",
            "--pull-never",
            *flags,
            "-t",
            tag,
            str(context),
        )

    def describe(self, tag: str) -> dict[str, Any]:
        """The image's configuration, as `docker inspect` gives it under Config, and its size in bytes."""
        found = json.loads(self.run("inspect", "--type", "image", tag))["Docker"]
        return {**found["config"], "History": found["history"]}

    @contextmanager
    def root_of(self, tag: str) -> Iterator[Path]:
        """A root file system of the image's own content, which may be changed."""
        name = self.run("from", "--pull-never", tag).strip()
        try:
            yield Path(self.run("mount", name).strip())
        finally:
            self.run("umount", name)
            self.run("rm", name)

    def close(self) -> None:
        """Lets go of what is mounted, so that the folder can be removed."""
        self.run("rm", "--all")
        subprocess.run(["umount", "--lazy", self._root / "overlay"], check=False, capture_output=True)


def context_of(folder: Path) -> Path:
    """A clone's files, and beside them what a work tree has and no image may get."""
    folder.mkdir()
    for name in ("Dockerfile", ".dockerignore", *SOURCE):
        shutil.copy2(ROOT / name, folder)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("offline"))
    (folder / ".env").write_text("SECRET=1\n")
    (folder / ".git").mkdir()
    (folder / "tests").mkdir()
    (folder / "tests" / "secret.pem").write_text("secret\n")
    return folder


def machine_secrets(folder: Path) -> list[str]:
    """How this machine reaches its package index, as the build secrets that docs/containers.md tells of."""
    flags = []
    authorities = os.environ.get("PIP_CERT") or "/etc/ssl/certs/ca-certificates.crt"
    if Path(authorities).exists():
        flags += ["--secret", f"id=ca,src={authorities}"]
    index = subprocess.run(
        ["pip", "config", "get", "global.index-url"], capture_output=True, text=True, check=False
    ).stdout.strip()
    if index:
        (folder / "pip.conf").write_text(f"[global]\nindex-url = {index}\n")
        flags += ["--secret", f"id=pip,src={folder / 'pip.conf'}"]
    return flags


def files_below(root: Path, folders: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file below some folders of a root file system."""
    found = {}
    for folder in folders:
        for path in (root / folder).rglob("*"):
            if path.is_file() and not path.is_symlink():
                status = path.stat()
                found[str(path.relative_to(root))] = (status.st_size, int(status.st_mtime))
    return found
