"""deploy/systemd: systemd takes the units, our programs their command lines; no connection is lost."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from proxy.settings_flags import read
from proxy.settings_loading import load
from tests.support.engines import SimEngine, expected, start_engine
from tests.unit.deploy.needed import DEPLOY, done, program
from workers.settings import read_settings

FOLDER = DEPLOY / "systemd"
UNITS = sorted([*FOLDER.glob("*.service"), *FOLDER.glob("*.socket")])
SERVICES = [path for path in UNITS if path.suffix == ".service"]
SECRET = re.compile(r"(KEY|PASSWORD|TOKEN)=", re.IGNORECASE)
START_S = 30.0

Unit = dict[str, list[tuple[str, str]]]


def unit(path: Path) -> Unit:
    """Sections, each with its settings in their order."""
    found: Unit = {}
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.append((key, value))
    return found


def of(name: str, section: str, key: str) -> list[str]:
    """All values of one setting."""
    return [value for found, value in unit(FOLDER / name)[section] if found == key]


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """With programs that are there, and an instance for a template; it exits 0 even where it complains."""
    analyze = program("systemd-analyze", "apt-get install systemd")
    for path in UNITS:
        text = re.sub(r"/opt/pd-proxy/bin/[\w-]+", "/bin/true", path.read_text())
        (tmp_path / path.name.replace("@.", "@one.")).write_text(text)
    names = sorted(one.name for one in tmp_path.iterdir())
    said = done(["bash", "-c", f"exec {shlex.join([analyze, 'verify', *names])} 2>&1"], tmp_path)
    assert [line for line in said.splitlines() if "pd-" in line] == []


def test_the_proxy_may_do_little() -> None:
    analyze = program("systemd-analyze", "apt-get install systemd")
    for name in ("pd-proxy.service", "pd-proxy-spare.service"):
        done([analyze, "security", "--offline=true", "--threshold=20", "--no-pager", str(FOLDER / name)])


def test_the_spare_is_the_proxy_but_for_its_state() -> None:
    proxy, spare = (unit(FOLDER / name) for name in ("pd-proxy.service", "pd-proxy-spare.service"))
    differ = {key for key, _ in set(proxy["Service"]) ^ set(spare["Service"])}
    assert differ == {"StateDirectory", "Environment"}
    assert "Install" not in spare, "the spare is started by hand, never at boot"


def test_both_proxies_inherit_the_one_socket() -> None:
    for name in ("pd-proxy.service", "pd-proxy-spare.service"):
        assert of(name, "Service", "Sockets") == ["pd-proxy.socket"]
        assert of(name, "Unit", "Requires") == ["pd-proxy.socket"]
    assert of("pd-proxy.socket", "Socket", "Accept") == [], "the proxy takes the listener, not connections"


def test_the_proxy_takes_its_command_line_and_has_time_to_drain() -> None:
    (command,) = of("pd-proxy.service", "Service", "ExecStart")
    argv = shlex.split(command)
    assert argv[0].endswith("/pd-proxy")
    argv = [str(FOLDER / "proxy.toml") if word == "/etc/pd-proxy/proxy.toml" else word for word in argv]
    variables = dict(one.split("=", 1) for one in of("pd-proxy.service", "Service", "Environment"))
    settings = load(read(argv[1:]), variables).settings
    assert str(settings.discovery.snapshot_path).startswith("%S/pd-proxy/")
    server = settings.server
    (limit_s,) = of("pd-proxy.service", "Service", "TimeoutStopSec")
    assert int(limit_s) > server.lame_duck_s + server.drain_s + 10


def test_the_worker_takes_its_command_line_and_has_time_to_drain() -> None:
    (command,) = of("pd-worker@.service", "Service", "ExecStart")
    argv = shlex.split(command)
    assert argv[0].endswith("/pd-worker")
    example = str(FOLDER / "worker-prefill.toml")
    argv = [example if word == "/etc/pd-proxy/worker-%i.toml" else word for word in argv]
    settings = read_settings(argv[1:])
    assert settings.launch().model == "Qwen3-32B"
    (limit_s,) = of("pd-worker@.service", "Service", "TimeoutStopSec")
    leaving_s = settings.drain_limit_s + settings.interrupt_limit_s + settings.terminate_limit_s
    assert int(limit_s) > leaving_s + 10


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_only_the_main_process_is_signalled(path: Path) -> None:
    assert of(path.name, "Service", "KillMode") == ["mixed"]


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_no_secret_stands_in_a_unit(path: Path) -> None:
    values = [value for settings in unit(path).values() for _, value in settings]
    assert [value for value in values if SECRET.search(value)] == []


@asynccontextmanager
async def running(*argv: str, pass_fds: tuple[int, ...] = ()) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process, ended with the block."""
    process = await asyncio.create_subprocess_exec(
        *argv, pass_fds=pass_fds, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def proxy_command(prefill: SimEngine, decode: SimEngine) -> list[str]:
    static = ["--prefill", prefill.url, str(prefill.bootstrap_port), "--decode", decode.url]
    return [sys.executable, "-m", "proxy", *static, "--port", "0", "--server-lame-duck-s", "0"]


def heir(listener: socket.socket, *command: str) -> list[str]:
    """`command` as systemd starts it: the socket at fd 3, and variables that name its own process."""
    program = (
        "import os,sys; os.dup2(int(sys.argv[1]), 3); os.set_inheritable(3, True); "
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); os.execv(sys.argv[2], sys.argv[2:])"
    )
    return [sys.executable, "-c", program, str(listener.fileno()), *command]


async def ask(url: str) -> str:
    body = {"text": "hello", "sampling_params": {"max_new_tokens": 4}}
    limit = aiohttp.ClientTimeout(total=START_S)
    async with (
        aiohttp.ClientSession(timeout=limit) as http,
        http.post(f"{url}/generate", json=body) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return str((await answer.json())["text"])


async def test_a_request_made_while_no_proxy_runs_is_answered_by_the_next() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with listener:
        async with start_engine("prefill") as prefill, start_engine("decode") as decode:
            command = heir(listener, *proxy_command(prefill, decode))
            async with running(*command, pass_fds=(listener.fileno(),)) as first:
                assert await ask(url) == expected("hello", 4)
                first.send_signal(signal.SIGTERM)
                assert await asyncio.wait_for(first.wait(), START_S) == 0
            async with asyncio.TaskGroup() as clients:
                waiting = [clients.create_task(ask(url)) for _ in range(5)]
                async with running(*command, pass_fds=(listener.fileno(),)):
                    assert [await one for one in waiting] == [expected("hello", 4)] * 5


async def test_the_first_connection_starts_the_proxy() -> None:
    """systemd's own program passes the socket, as the .socket unit will."""
    activate = program("systemd-socket-activate", "apt-get install systemd")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    async with start_engine("prefill") as prefill, start_engine("decode") as decode:
        kept = [f"--setenv={name}" for name in ("PATH", "PYTHONPATH") if name in os.environ]
        command = [activate, f"--listen=127.0.0.1:{port}", *kept, *proxy_command(prefill, decode)]
        async with running(*command):
            await _listens(port)
            assert await ask(f"http://127.0.0.1:{port}") == expected("hello", 4)


async def _listens(port: int) -> None:
    """Waits for a listener without connecting, for a connection would be the first."""
    wanted = f":{port:04X} 00000000:0000 0A"
    async with asyncio.timeout(START_S):
        while wanted not in _kernels_list():
            await asyncio.sleep(0.02)


def _kernels_list() -> str:
    return Path("/proc/net/tcp").read_text()
