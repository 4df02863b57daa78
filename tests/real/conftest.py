"""One fleet of real servers for all tests: it takes a minute or more to start."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from tests.real.asking import until_ready
from tests.real.fleet import Fleet, start_fleet


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two prefills, two decodes, a plain server, etcd and the proxy."""
    with start_fleet(tmp_path_factory.mktemp("real")) as made:
        yield made


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client without limits but that of time."""
    limits = aiohttp.ClientTimeout(total=200)
    async with aiohttp.ClientSession(timeout=limits, connector=aiohttp.TCPConnector(limit=0)) as made:
        yield made


@pytest.fixture(autouse=True)
async def whole(fleet: Fleet, http: aiohttp.ClientSession) -> None:
    """Every test begins with a whole fleet."""
    await until_ready(fleet.proxy, http, len(fleet.prefills) + len(fleet.decodes))
