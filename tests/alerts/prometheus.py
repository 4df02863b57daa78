"""A real Prometheus with the files of deploy/prometheus, its clock running twenty times as fast."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.etcd import free_ports
from tests.support.proxies import eventually
from tests.unit.deploy.needed import DEPLOY, program

FOLDER = DEPLOY / "prometheus"
FASTER = 20
"""A minute of the rules lasts 3 s here: of every range, every offset and every `for`."""
LIMIT_S = 120.0
"""why: the slowest alert wants 15 minutes of a figure over 15 minutes, 90 s here; the machine may be busy."""
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_ASKED = re.compile(r"(scrape_interval|scrape_timeout|evaluation_interval|refresh_interval): \d+s")
_TIMES = re.compile(r"(\[|offset |for: )(\d+)([mh])\b")


def hurried(folder: Path, proxy_port: int) -> Path:
    """Our files, their times shortened and nothing else; the configuration's path.

    Everything is asked once a second. The one threshold that is a time, of the registry, shrinks as well.
    """
    for path in FOLDER.glob("*.yml"):
        text = path.read_text().replace("127.0.0.1:30000", f"127.0.0.1:{proxy_port}")
        text = _ASKED.sub(r"\1: 1s", text)
        text = text.replace("pd_registry_age_seconds > 60", f"pd_registry_age_seconds > {60 // FASTER}")
        (folder / path.name).write_text(_TIMES.sub(_shorter, text))
    return folder / "prometheus.yml"


def _shorter(found: re.Match[str]) -> str:
    before, number, unit = found.groups()
    return f"{before}{int(number) * _SECONDS[unit] // FASTER}s"


class Server:
    """A running Prometheus."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def ready(self) -> bool:
        try:
            async with self._http.get("/-/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def _data(self, path: str, **query: str) -> Any:
        async with self._http.get(f"/api/v1/{path}", params=query) as answer:
            return (await answer.json())["data"]

    async def series(self, expr: str) -> list[dict[str, str]]:
        """The labels of what an expression finds now."""
        return [one["metric"] for one in (await self._data("query", query=expr))["result"]]

    async def alerts(self, name: str, **labels: str) -> list[dict[str, Any]]:
        """The alerts of this name that fire now, with these labels among theirs."""
        found = (await self._data("alerts"))["alerts"]
        wanted = {"alertname": name, **labels}.items()
        return [one for one in found if one["state"] == "firing" and wanted <= one["labels"].items()]

    async def ever_fired(self) -> set[str]:
        """The names of all alerts that have fired since the start."""
        found = await self.series('count_over_time(ALERTS{alertstate="firing"}[1h])')
        return {one["alertname"] for one in found}

    async def fires(
        self, name: str, meanwhile: Callable[[], Awaitable[object]] | None = None, **labels: str
    ) -> list[dict[str, Any]]:
        """Waits until the alert fires, and looks at its link; `meanwhile` is done between two looks."""

        found: list[dict[str, Any]] = []

        async def firing() -> bool:
            if meanwhile is not None:
                await meanwhile()
            await asyncio.sleep(0.2)
            found.extend(await self.alerts(name, **labels))
            return bool(found)

        await eventually(firing, LIMIT_S, told=lambda: f"{name} {labels} did not fire")
        link = found[0]["annotations"]["runbook_url"]
        assert link == f"https://git.example.com/pd-proxy/docs/runbook.md#{name.lower()}"
        return found


@asynccontextmanager
async def prometheus(folder: Path, proxy_port: int) -> AsyncIterator[Server]:
    """Scrapes the proxy at that port, and what this tells of."""
    binary = program("prometheus", "apt-get install --no-install-recommends prometheus")
    configuration = hurried(folder, proxy_port)
    (port,) = free_ports(1)
    process = await asyncio.create_subprocess_exec(
        binary, f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
    )  # fmt: skip
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            server = Server(http)
            await eventually(server.ready, LIMIT_S)
            yield server
    finally:
        process.terminate()
        await process.wait()
        shutil.rmtree(folder / "data", ignore_errors=True)
