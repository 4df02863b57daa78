"""Runs an image as its configuration says, by crun: a real OCI container, with the host's network.

Nothing of docker is there to take the image's words for it: entry point, user, environment and health check
are read from the image and put into the runtime's own configuration. The root is read-only, no capability is
left, and none can be gained, unless a test says otherwise.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.images.building import Store
from tests.support.proxies import eventually

END_S = 60.0
START_S = 60.0
_NAMES = itertools.count()
# why: crun takes no cgroup v1; what a container may use is not the matter here, so it gets an empty v2.
_CGROUP2 = 'umount -R /sys/fs/cgroup 2>/dev/null; mount -t cgroup2 none /sys/fs/cgroup; exec "$@"'
_DEVICES = {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}
_SHM = {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "mode=1777"]}


class Container:
    """A running container. `log` is what it said."""

    def __init__(
        self, name: str, folder: Path, process: asyncio.subprocess.Process, image: Mapping[str, Any]
    ) -> None:
        self._crun = ["crun", "--root", str(folder / "crun"), "--cgroup-manager=disabled"]
        self._name = name
        self._process = process
        self._health: list[str] = (image.get("Healthcheck") or {}).get("Test", [])
        self._user = image["User"] or "0:0"
        self._log = folder / "log"

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def code(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._process.returncode

    async def says(self, words: str, within_s: float = START_S) -> None:
        """Waits until it has said so.

        Raises:
            AssertionError: it ended, or the time was over.
        """

        def said() -> bool:
            if words in self.log:
                return True
            assert self.code is None, f"ended with {self.code}: {self.log[-3000:]}"
            return False

        await eventually(said, within_s, lambda: f"not said: {words}\n{self.log[-3000:]}")

    async def execute(self, *argv: str) -> tuple[int, str]:
        """Runs a program in it, as `docker exec`; exit code and output."""
        process = await asyncio.create_subprocess_exec(
            *self._crun, "exec", "--user", self._user, self._name, *argv,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await asyncio.wait_for(process.communicate(), END_S)
        return process.returncode or 0, output.decode(errors="replace")

    async def healthy(self) -> tuple[int, str]:
        """What the image's health check finds."""
        assert self._health[0] == "CMD", "no shell"
        return await self.execute(*self._health[1:])

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """As `docker stop`: its exit code."""
        await self.signal(number)
        return await asyncio.wait_for(self._process.wait(), END_S)

    async def signal(self, number: signal.Signals) -> None:
        killer = await asyncio.create_subprocess_exec(*self._crun, "kill", self._name, number.name)
        await asyncio.wait_for(killer.wait(), END_S)

    async def end(self) -> None:
        """Kills what is left of it."""
        if self.code is None:
            await self.stop(signal.SIGKILL)


def _configuration(
    root: Path,
    image: Mapping[str, Any],
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    read_only: bool,
    mounts: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    user, _, group = (image["User"] or "0:0").partition(":")
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(root), "readonly": read_only},
        "process": {
            "terminal": False,
            "user": {"uid": int(user), "gid": int(group or user)},
            "args": list(argv),
            "env": [*image["Env"], *(f"{name}={value}" for name, value in environ.items())],
            "cwd": image["WorkingDir"] or "/",
            "noNewPrivileges": True,
            "capabilities": {},
        },
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}, _DEVICES, _SHM, *mounts],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]},
    }


@asynccontextmanager
async def container(
    store: Store,
    tag: str,
    folder: Path,
    *words: str,
    entrypoint: Sequence[str] | None = None,
    environ: Mapping[str, str] | None = None,
    read_only: bool = True,
    mounts: Sequence[Mapping[str, Any]] = (),
) -> AsyncIterator[Container]:
    """`docker run tag words`; killed with the block."""
    name = f"pd-test-{next(_NAMES)}"
    bundle = folder / name
    bundle.mkdir(parents=True)
    image = store.describe(tag)
    argv = [
        *(image["Entrypoint"] or () if entrypoint is None else entrypoint),
        *(words or image["Cmd"] or ()),
    ]
    with store.root_of(tag) as root:
        made = _configuration(root, image, argv, environ or {}, read_only=read_only, mounts=mounts)
        (bundle / "config.json").write_text(json.dumps(made))
        with (bundle / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                "unshare", "-m", "sh", "-c", _CGROUP2, "sh",
                "crun", "--root", str(bundle / "crun"), "--cgroup-manager=disabled",
                "run", "--bundle", str(bundle), name,
                stdout=log, stderr=log, stdin=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
        running = Container(name, bundle, process, image)
        try:
            status = bundle / "crun" / name / "status"
            await eventually(lambda: status.exists() or running.code is not None, START_S)
            yield running
        finally:
            await running.end()
