"""Brings one release file of downloads.toml into an image: `python3 -m deploy.images.fetch NAME FOLDER`.

The file is taken from the folder `offline` beside this module, if it lies there under its own name; else it
is downloaded. Either way its SHA-256 must be the one that downloads.toml says. Its content is unpacked into
FOLDER, without the folder that everything in it lies in. Needs Python 3.11, and nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import shutil
import ssl
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import IO
from urllib.error import URLError
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

_HERE = Path(__file__).parent
_LIST = _HERE / "downloads.toml"
_LOCAL = _HERE / "offline"
_CA = Path("/run/secrets/ca")
"""The build secret `ca`: PEM of the authorities to trust, instead of the system's."""
_SILENCE_S = 60.0
_MOST_BYTES = 512 * 2**20
_PIECE_BYTES = 2**20


class FetchError(Exception):
    """A file is not to be had, or not the one that was asked for."""


def entry(name: str, machine: str) -> tuple[str, str]:
    """Address and SHA-256 of a file for a kind of machine, as `uname -m` calls it.

    Raises:
        FetchError: there is none.
    """
    listed = tomllib.loads(_LIST.read_text()).get(name, {})
    if machine not in listed:
        raise FetchError(f"{_LIST.name} has no {name} for {machine}, only for {sorted(listed)}")
    return listed[machine]["url"], listed[machine]["sha256"]


def through(mirror: str, url: str) -> str:
    """The same file at a mirror: its address takes the place of scheme and host."""
    return f"{mirror.rstrip('/')}{urlsplit(url).path}"


def bring(url: str, sha256: str, target: IO[bytes]) -> None:
    """Writes the file at `url` to `target`.

    Raises:
        FetchError: it cannot be had, or is another one.
    """
    local = _LOCAL / unquote(url.rpartition("/")[2])
    digest = hashlib.sha256()
    try:
        with local.open("rb") if local.exists() else _opened(url) as source:
            while piece := source.read(_PIECE_BYTES):
                digest.update(piece)
                target.write(piece)
                if target.tell() > _MOST_BYTES:
                    raise FetchError(f"{url}: over {_MOST_BYTES} bytes")
    except (URLError, OSError) as error:
        raise FetchError(
            f"{url}: {error}: name a mirror with --build-arg DOWNLOADS=URL, or put the file into "
            f"deploy/images/{_LOCAL.name}"
        ) from error
    if digest.hexdigest() != sha256:
        came = local if local.exists() else url
        raise FetchError(f"{came}: SHA-256 {digest.hexdigest()}, {_LIST.name} wants {sha256}")


def _opened(url: str) -> IO[bytes]:
    trusted = ssl.create_default_context(cafile=_CA if _CA.exists() else None)
    opened: IO[bytes] = urlopen(url, timeout=_SILENCE_S, context=trusted)
    return opened


def unpack(archive: IO[bytes], folder: Path) -> None:
    """Unpacks a tar file of a known checksum without its outermost folder; nothing may lie elsewhere."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        with tarfile.open(fileobj=archive) as tar:
            # Python before 3.11.4 (Debian 12's) has no filters; there the checksum must be enough.
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(scratch)
        (outermost,) = Path(scratch).iterdir()
        shutil.move(outermost, folder)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="fetch", description="Brings one release file into an image.")
    parser.add_argument("name", help="a table of downloads.toml")
    parser.add_argument("folder", type=Path, help="where its content goes")
    parser.add_argument("--mirror", default="", help="URL that stands for https://github.com")
    asked = parser.parse_args()
    try:
        url, sha256 = entry(asked.name, platform.machine())
        with tempfile.TemporaryFile() as archive:
            bring(through(asked.mirror, url) if asked.mirror else url, sha256, archive)
            archive.seek(0)
            unpack(archive, asked.folder)
    except FetchError as error:
        sys.exit(f"fetch: {error}")


if __name__ == "__main__":
    main()
