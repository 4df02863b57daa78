"""What the bench needs before it can run: two C programs, and sglang-router in an environment of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE / "build"
STUB = BUILD / "stub"
LOADGEN = BUILD / "loadgen"
PEER_PYTHON = BUILD / "peers" / "bin" / "python"

_CFLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra")


class BuildError(Exception):
    """Something could not be built; the message says what to do."""


def compile_programs() -> None:
    """Compile the stub and the load generator where a source is newer than its program."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise BuildError("no C compiler: install one, e.g. apt-get install gcc libc6-dev")
    BUILD.mkdir(exist_ok=True)
    for program in (STUB, LOADGEN):
        source = HERE / "native" / f"{program.name}.c"
        if not _is_newer(program, source, source.with_name("wire.h")):
            _run([compiler, *_CFLAGS, str(source), "-o", str(program)], f"cannot compile {source.name}")


def install_peers() -> None:
    """Install sglang-router as locked in peers.lock, unless the same lock is installed already."""
    lock = HERE / "peers.lock"
    installed = BUILD / "peers" / "installed.lock"
    if installed.exists() and installed.read_bytes() == lock.read_bytes():
        return
    environment = BUILD / "peers"
    print(f"bench: installing sglang-router into {environment.relative_to(HERE.parent)} ...", file=sys.stderr)
    _run([sys.executable, "-m", "venv", "--clear", str(environment)], "cannot make a virtual environment")
    pip = [str(PEER_PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--no-deps", "--require-hashes", "-r", str(lock)], "cannot install sglang-router")
    installed.write_bytes(lock.read_bytes())


def _is_newer(program: Path, *sources: Path) -> bool:
    return program.exists() and program.stat().st_mtime >= max(s.stat().st_mtime for s in sources)


def _run(command: list[str], failure: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{failure}:\n{done.stderr.strip()}")
