"""Questions to workers beside the data path: probes, information, fan-outs. One client for all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import aiohttp
import msgspec

from proxy.errors import PdError, UpstreamFailure, UpstreamTimeout
from proxy.roster import Worker

_Answer = TypeVar("_Answer")

MAX_ANSWER_BYTES = (
    8 * 1024 * 1024
)  # why: a /server_info of many ranks is some 100 KB; a profile's answer is tiny
CONCURRENCY = 64  # why: one fan-out over a large fleet must not take all sockets at once


class Refused(UpstreamFailure):
    """Nothing accepts connections at that address: the process is not there."""

    code = "upstream_refused"


@dataclass(frozen=True, slots=True)
class Answer:
    """A worker's whole answer, whatever its status."""

    status: int
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    def json(self) -> object | None:
        """The body as JSON; None where it is not."""
        try:
            value: object = msgspec.json.decode(self.body)
        except msgspec.DecodeError:
            return None
        return value


class Inquiries:
    """Owns one client session, made inside the loop at the first question."""

    def __init__(self, api_key: str | None, connect_s: float) -> None:
        """Takes the key that the workers want (None: no key) and the limit for connecting."""
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._connect_s = connect_s
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Ends the session; questions under way fail."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(
        self,
        worker: Worker,
        method: str,
        path: str,
        timeout_s: float,
        *,
        body: object = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """One question to a worker; any status is an answer.

        Args:
            worker: whom.
            method: the HTTP method.
            path: begins with a slash.
            timeout_s: for everything, the connection included.
            body: sent as JSON unless None.
            query: the query's parameters.

        Raises:
            Refused: nobody listens there.
            UpstreamTimeout: no whole answer within `timeout_s`.
            UpstreamFailure: the connection broke, or the answer is too large.
        """
        return await self.ask_url(
            worker.url + path, method, timeout_s, body=body, query=query, headers=self._headers
        )

    async def ask_url(
        self,
        url: str,
        method: str,
        timeout_s: float,
        *,
        body: object = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """As `ask`, at any address, and without the workers' key unless `headers` carry it."""
        data = None if body is None else msgspec.json.encode(body)
        sent = dict(headers or {})
        if data is not None:
            sent["Content-Type"] = "application/json"
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._client().request(method, url, data=data, params=query, headers=sent) as response,
            ):
                return Answer(response.status, await _read(response))
        except TimeoutError as error:
            raise UpstreamTimeout(f"{method} {url}: no answer within {timeout_s:g} s") from error
        except (aiohttp.ClientConnectorError, ConnectionRefusedError) as error:
            raise Refused(f"{method} {url}: cannot connect: {error}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UpstreamFailure(f"{method} {url}: {error or type(error).__name__}") from error

    async def get_json(self, worker: Worker, path: str, timeout_s: float) -> dict[str, object]:
        """A worker's JSON object from a GET.

        Raises:
            UpstreamFailure: no answer (see `ask`), no 2xx, or no JSON object.
        """
        answer = await self.ask(worker, "GET", path, timeout_s)
        if not answer.ok:
            raise UpstreamFailure(f"GET {worker.url}{path} answered {answer.status}")
        value = answer.json()
        if not isinstance(value, dict):
            raise UpstreamFailure(f"GET {worker.url}{path} answered no JSON object")
        return value

    async def fan_out(
        self, workers: Iterable[Worker], question: Callable[[Worker], Awaitable[_Answer]]
    ) -> list[tuple[Worker, _Answer | PdError]]:
        """Puts one question to many, a bounded number at a time; a failure is that worker's answer.

        The question carries its own deadline.
        """
        gate = asyncio.Semaphore(CONCURRENCY)

        async def one(worker: Worker) -> tuple[Worker, _Answer | PdError]:
            async with gate:
                try:
                    return worker, await question(worker)
                except PdError as error:
                    return worker, error

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(worker)) for worker in workers]
        return [task.result() for task in tasks]

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # uvicorn closes an idle connection after 5 s; one kept for less never meets that race.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=3.0, ttl_dns_cache=30),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_s),
                auto_decompress=False,
                skip_auto_headers=("Accept-Encoding", "User-Agent"),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise UpstreamFailure(f"{response.method} {response.url}: answer over {MAX_ANSWER_BYTES} bytes")
    return bytes(body)
