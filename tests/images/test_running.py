"""The images as containers: what they answer, as whom they run, how they end."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.images.building import Store
from tests.images.conftest import ETCD, PROXY, WORKER
from tests.images.running import container
from tests.support.engines import expected, start_engine
from tests.support.etcd import free_ports
from tests.support.proxies import eventually

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

START_S = 60.0
DATA = {"destination": "/var/lib/etcd", "type": "tmpfs", "source": "data", "options": ["mode=1777"]}
LOGS = {"destination": "/logs", "type": "tmpfs", "source": "logs", "options": ["mode=1777"]}
PYTHON = "/opt/pd/.venv/bin/python"


async def answers(url: str) -> bool:
    try:
        async with aiohttp.ClientSession() as http, http.get(url) as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def told(url: str) -> Any:
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        assert answer.status == 200
        return await answer.json(content_type=None)


async def test_the_proxy_serves_without_rights_on_a_read_only_root(store: Store, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with start_engine("prefill") as prefill, start_engine("decode") as decode:
        workers = ("--prefill", prefill.url, str(prefill.bootstrap_port), "--decode", decode.url)
        environ = {"PD_SERVER_PORT": str(port)}
        async with container(store, PROXY, tmp_path, *workers, environ=environ) as proxy:
            await eventually(lambda: answers(f"http://127.0.0.1:{port}/health"), START_S)
            await eventually(lambda: answers(f"http://127.0.0.1:{port}/readiness"), START_S)
            assert await proxy.healthy() == (0, "")
            body = {"text": "hello", "sampling_params": {"max_new_tokens": 4}}
            async with (
                aiohttp.ClientSession() as http,
                http.post(f"http://127.0.0.1:{port}/generate", json=body) as answer,
            ):
                assert (await answer.json())["text"] == expected("hello", 4)
            _, status = await proxy.execute("cat", "/proc/1/status")
            assert re.search(r"^Uid:\t65532\t65532\t65532\t65532$", status, re.MULTILINE)
            assert re.search(r"^CapEff:\t0{16}$", status, re.MULTILINE)
            code, said = await proxy.execute("touch", "/tmp/x", "/opt/pd/x", "/var/lib/pd-proxy/x")
            assert code != 0
            assert said.count("Read-only file system") == 3
            assert await proxy.stop() == 0


async def test_the_health_check_fails_where_no_proxy_is(store: Store, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    environ = {"PD_SERVER_PORT": str(port)}
    async with container(store, PROXY, tmp_path, "60", entrypoint=["sleep"], environ=environ) as nothing:

        async def refused() -> bool:
            code, said = await nothing.healthy()
            return code == 1 and "refused" in said

        await eventually(refused, START_S)


async def test_sigterm_ends_the_proxy_after_its_streams(store: Store, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with start_engine("prefill") as prefill, start_engine("decode", decode_ms_per_token=20) as decode:
        workers = ("--prefill", prefill.url, str(prefill.bootstrap_port), "--decode", decode.url)
        async with (
            container(store, PROXY, tmp_path, *workers, "--port", str(port)) as proxy,
            aiohttp.ClientSession() as http,
        ):
            await eventually(lambda: answers(f"http://127.0.0.1:{port}/readiness"), START_S)
            body = {"text": "hello", "stream": True, "sampling_params": {"max_new_tokens": 250}}
            async with http.post(f"http://127.0.0.1:{port}/generate", json=body) as answer:
                events = answer.content
                assert (await events.readline()).startswith(b"data: ")
                await proxy.signal(signal.SIGTERM)
                await proxy.says('"leaving"')
                stream = [line async for line in events if line.startswith(b"data: ")]
            assert stream[-1].strip() == b"data: [DONE]"
            assert json.loads(stream[-2][6:])["text"] == expected("hello", 250)
            await eventually(lambda: proxy.code is not None, START_S)
            assert proxy.code == 0


async def test_the_whole_system_runs_from_the_images(store: Store, tmp_path: Path) -> None:
    """etcd, a simulated prefill from the proxy's image, a decode from the worker's, and the proxy."""
    client, peer, door, *ports = free_ports(6)
    url = f"http://127.0.0.1:{client}"
    served = ("--listen-client-urls", url, "--advertise-client-urls", url)
    peers = ("--listen-peer-urls", f"http://127.0.0.1:{peer}", "--data-dir", "/var/lib/etcd/data")
    environ = {"ETCDCTL_ENDPOINTS": url}
    engine = ("--engine", "simulated", "--etcd-endpoints", url)
    entry = ["pd-worker"]
    prefill = (*engine, "--role", "prefill", "--port", str(ports[0]), "--bootstrap-port", str(ports[1]))
    decode = ("pd-worker", *engine, "--role", "decode", "--port", str(ports[2]))
    async with container(store, ETCD, tmp_path, *served, *peers, environ=environ, mounts=[DATA]) as etcd:

        async def etcd_is_healthy() -> bool:
            return (await etcd.healthy())[0] == 0

        await eventually(etcd_is_healthy, START_S)
        async with (
            container(store, PROXY, tmp_path, *prefill, entrypoint=entry) as first,
            container(store, WORKER, tmp_path, *decode) as second,
            container(store, PROXY, tmp_path, "--etcd", url, "--port", str(door)) as proxy,
        ):
            await eventually(lambda: answers(f"http://127.0.0.1:{door}/readiness"), START_S)
            body = {"text": "hello", "sampling_params": {"max_new_tokens": 4}}
            async with (
                aiohttp.ClientSession() as http,
                http.post(f"http://127.0.0.1:{door}/generate", json=body) as answer,
            ):
                assert (await answer.json())["text"] == expected("hello", 4)
            for one in (first, second, proxy):
                assert await one.stop() == 0, one.log
        assert await etcd.stop() in (0, 143), "etcd hands SIGTERM on to itself once it has ended its work"


async def test_the_worker_image_launches_the_sglang_of_its_base(store: Store, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    (weights / "model.safetensors").write_bytes(b"\0" * 16)
    mount = {"destination": "/models", "type": "bind", "source": str(weights), "options": ["bind", "ro"]}
    port, control = free_ports(2)
    words = (
        "pd-worker", "--engine", "sglang", "--role", "decode", "--model", "/models", "--allow-tcp",
        "--host", "127.0.0.1", "--port", str(port), "--control-port", str(control),
        "--log-dir", "/logs", "--drain-settle-s", "0.3",
    )  # fmt: skip
    async with container(store, WORKER, tmp_path, *words, mounts=[mount, LOGS]) as worker:
        await worker.says("pd-worker ready ")
        assert await answers(f"http://127.0.0.1:{control}/health")
        engine = await told(f"http://127.0.0.1:{port}/server_info")
        assert engine["interpreter"] == "/usr/bin/python3"
        assert "/trap" in engine["path"], "the base's PYTHONPATH is for SGLang"
        assert [path for path in engine["path"] if path.startswith("/opt/pd")] == []
        assert await worker.stop() == 0, worker.log


async def test_commands_are_where_the_slurm_job_looks(store: Store, tmp_path: Path) -> None:
    async with container(store, WORKER, tmp_path, "sleep", "120") as worker:

        async def out(*argv: str) -> str:
            code, said = await worker.execute(*argv)
            assert code == 0, said
            return said

        imports = (
            "import proxy, workers, deploy.slurm, sys; print(proxy.__file__, sys.version_info[:2] >= (3, 11))"
        )
        assert await out(PYTHON, "-I", "-c", imports) == "/opt/pd/proxy/__init__.py True\n"
        assert re.match(r"pd-proxy \d", await out("pd-proxy", "--version"))
        _, said = await worker.execute("pd-worker", "doctor", "--json")
        checks = {one["check"]: one for one in json.loads(said)}
        assert checks["sglang"]["level"] == "ok"
        assert "0.5.23" in checks["sglang"]["said"]
        for program in ("etcd", "etcdctl"):
            assert "ersion" in await out(program, "--version" if program == "etcd" else "version")
        assert "libmlx5" in await out("ldconfig", "-p")
        assert (await worker.execute("python3", "-c", "import aiohttp"))[0] != 0, "ours is not the base's"
