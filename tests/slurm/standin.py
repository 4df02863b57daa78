"""Stands in for the `docker` command: a container is a process of the host with a container's environment.

    standin.py FOLDER run [--FLAG...] IMAGE COMMAND... | image inspect ... | ps ... | rm --force NAME...

As with the real one, the container is no child of the step's shell: it survives a SIGKILL of this client, and
its stdin closes when the client is gone. FOLDER holds a file for each container, <name>@<host>, with its
label and its PID; a file `no-image@<host>` takes the image away from a host.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMAGE_PYTHON = "/opt/pd/.venv/bin/python"
HOST = socket.gethostname()


def run(folder: Path, words: list[str]) -> int:
    flags = [word for word in words[: _image_at(words)] if word.startswith("--")]
    command = words[_image_at(words) + 1 :]
    assert command[:2] == [IMAGE_PYTHON, "-I"], command
    command = [sys.executable, *command[2:]]  # not isolated: the checkout lies in the working directory
    asked = {flag.partition("=")[2] for flag in flags if flag.startswith("--env=")}
    environ = {name: value for name, value in os.environ.items() if name in asked}
    environ |= {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    container = subprocess.Popen(
        command, cwd=ROOT, env=environ, stdin=subprocess.PIPE, start_new_session=True
    )
    assert container.stdin
    told = {name: value for name, _, value in (flag.removeprefix("--").partition("=") for flag in flags)}
    record = folder / f"{told.get('name', f'planner{container.pid}')}@{HOST}"
    record.write_text(f"{told.get('label', '')} {container.pid}")
    signal.signal(signal.SIGTERM, lambda *_: container.terminate())
    if "--interactive" in flags:
        threading.Thread(target=_pump, args=(container,), daemon=True).start()
    else:
        container.stdin.close()
    code = container.wait()
    record.unlink(missing_ok=True)
    return code if code >= 0 else 128 - code


def _image_at(words: list[str]) -> int:
    return next(at for at, word in enumerate(words) if not word.startswith("--"))


def _pump(container: subprocess.Popen[bytes]) -> None:
    assert container.stdin
    while data := os.read(0, 65536):
        container.stdin.write(data)
        container.stdin.flush()
    container.stdin.close()


def remove(folder: Path, names: list[str]) -> None:
    for name in names:
        record = folder / f"{name}@{HOST}"
        os.kill(int(record.read_text().split()[1]), signal.SIGKILL)
        record.unlink()


def main() -> int:
    folder, word, *words = Path(sys.argv[1]), *sys.argv[2:]
    if word == "run":
        return run(folder, words)
    if word == "image":
        if (folder / f"no-image@{HOST}").exists():
            return 1
        print("sha256:1")
    elif word == "ps":
        wanted = words[-1].removeprefix("label=")
        for record in folder.glob(f"*@{HOST}"):
            if record.read_text().startswith(f"{wanted} "):
                print(record.name.partition("@")[0])
    elif word == "rm":
        remove(folder, words[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
