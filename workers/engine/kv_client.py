"""Decode's side of the bootstrap: dials the prefill that a request names, and waits for its KV."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from workers.engine.background import Background
from workers.engine.config import EngineConfig
from workers.engine.jobs import Aborted, Failure, Job
from workers.engine.kv import Kv, decode_failure

_DEFAULT_BOOTSTRAP_PORT = 8998


class KvClient:
    """Receives KV. One a decode engine; its session names the process to Mooncake."""

    def __init__(self, config: EngineConfig, session: str, tasks: Background) -> None:
        self._config = config
        self._session = session
        self._tasks = tasks
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None, sock_connect=5)
        )
        self._known: set[str] = set()
        """Bootstrap addresses whose ranks were asked once, as SGLang remembers them."""
        self._rooms: set[int] = set()
        self.handshaking = 0
        self.receiving = 0

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.close()

    async def receive(self, job: Job) -> Kv:
        """The KV of `job`'s room.

        Raises:
            Failure: as SGLang tells it, after as long as it takes SGLang to notice.
            Aborted: the job was; prefill is told.
        """
        assert job.room is not None
        if job.room in self._rooms:
            raise decode_failure("handshake", job, "bootstrap_room mismatch: the room is in use")
        base = _base(job)
        self._rooms.add(job.room)
        try:
            await self._handshake(job, base)
            return await self._wait_for_kv(job, base)
        finally:
            self._rooms.discard(job.room)

    async def _handshake(self, job: Job, base: URL) -> None:
        if base.authority in self._known:
            return
        self.handshaking += 1
        try:
            with job.interruptible():
                await self._ask_route(job, base)
        except Aborted:
            raise decode_failure("handshake", job, "Aborted by AbortReq.") from None
        finally:
            self.handshaking -= 1
        self._known.add(base.authority)

    async def _ask_route(self, job: Job, base: URL) -> None:
        """Asks for prefill's ranks; 0.5.23 keeps asking until its timeout, 0.5.2 asks once."""
        query = (
            "prefill_dp_rank=-1&prefill_cp_rank=-1&target_tp_rank=-1&target_pp_rank=-1"
            if self._config.modern
            else "engine_rank=-1&target_dp_group=-1"
        )
        key = "dp_size" if self._config.modern else "prefill_dp_size"
        try:
            async with asyncio.timeout(self._config.handshake_timeout_s):
                while True:
                    if key in await self._get_json(base.join(URL(f"/route?{query}"))):
                        return
                    if not self._config.modern:
                        break
                    await asyncio.sleep(min(1.0, self._config.handshake_timeout_s / 5))
        except TimeoutError:
            raise decode_failure("handshake", job, "Aborted by AbortReq.") from None
        raise self._unreachable(job, base)

    async def _get_json(self, url: URL) -> dict[str, Any]:
        try:
            async with self._http.get(url) as answer:
                found = msgspec.json.decode(await answer.read()) if answer.status == 200 else {}
                return found if isinstance(found, dict) else {}
        except (aiohttp.ClientError, OSError, msgspec.DecodeError):
            return {}

    def _unreachable(self, job: Job, base: URL) -> Failure:
        address = base.authority
        return decode_failure(
            "handshake", job, f"Could not fetch prefill parallel info from bootstrap_addr: {address}"
        )

    async def _wait_for_kv(self, job: Job, base: URL) -> Kv:
        """The request is held by a task of the engine's: an abort tells prefill before it hangs up."""
        self.receiving += 1
        held = self._tasks.start(self._hold(job, base))
        try:
            with job.interruptible():
                outcome = await asyncio.shield(held)
        except BaseException as left:
            self._tasks.start(self._give_up(held, base, job.room))
            if isinstance(left, Aborted):
                raise decode_failure("transfer", job, "Aborted by AbortReq.") from None
            raise
        finally:
            self.receiving -= 1
        if isinstance(outcome, Failure):
            raise outcome
        return outcome

    async def _hold(self, job: Job, base: URL) -> Kv | Failure:
        config = self._config
        size_bytes = len(job.ids) * config.kv_bytes_per_token
        transfer_s = config.kv_latency_ms / 1e3
        if config.kv_gb_per_s:
            transfer_s += size_bytes / (config.kv_gb_per_s * 1e9)
        query = {"room": str(job.room), "session": self._session, "transfer_s": f"{transfer_s:.6f}"}
        try:
            async with asyncio.timeout(config.waiting_timeout_s):
                async with self._http.post(base.join(URL("/kv")).with_query(query)) as answer:
                    body = await answer.read()
        except TimeoutError:
            waited = f"timed out after {config.waiting_timeout_s:.1f}s in KVPoll.WaitingForInput"
            return decode_failure("transfer", job, f"Request {job.room} {waited}")
        except aiohttp.ClientConnectorError:
            self._known.discard(base.authority)
            if not config.modern:
                return self._unreachable(job, base)
            await asyncio.sleep(config.handshake_timeout_s)
            return decode_failure("handshake", job, "Aborted by AbortReq.")
        except (aiohttp.ClientError, OSError):
            self._known.discard(base.authority)
            await asyncio.sleep(config.lost_prefill_timeout_s)
            lost = "Lost" if config.modern else "Losing"
            return decode_failure(
                "transfer", job, f"{lost} connection with prefill instance (bootstrap_addr: {base.authority})"
            )
        if answer.status == 409:
            return decode_failure("handshake", job, body.decode())
        if answer.status != 200:
            return decode_failure(
                "transfer", job, "Failed to get kvcache from prefill instance, it might be dead"
            )
        return msgspec.json.decode(body, type=Kv)

    async def _give_up(self, held: asyncio.Task[Kv | Failure], base: URL, room: int | None) -> None:
        try:
            async with asyncio.timeout(2):
                async with self._http.delete(base.join(URL("/kv")).with_query({"room": str(room)})):
                    pass
        except (aiohttp.ClientError, OSError, TimeoutError, RuntimeError):
            pass  # The prefill is gone, or this engine's client is closed: nobody to tell.
        held.cancel()


def _base(job: Job) -> URL:
    host = job.bootstrap_host or "127.0.0.1"
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return URL(f"http://{host}:{job.bootstrap_port or _DEFAULT_BOOTSTRAP_PORT}")
