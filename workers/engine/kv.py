"""Where prefill and decode meet, seen from prefill: the HTTP server on its bootstrap port.

What crosses is small but proves the pairing: the digest of prefill's input, its first token, its cache
hits. A decode whose own input has another digest goes on with garbage, as with a wrong KV cache.

The real protocol (ZeroMQ, then RDMA) is replaced by one held HTTP request a room. The life of a room is
the real one: whoever comes first waits; prefill computes once decode has come; both end when the transfer
has ended.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import msgspec
from aiohttp import web

from workers.engine.config import EngineConfig
from workers.engine.jobs import Failure, Job

FAKE_HOST = "2.2.2.2"
"""A bootstrap host that means: no transfer at all (SGLang's health checks and warm-ups)."""


class Kv(msgspec.Struct):
    """What prefill hands over."""

    digest: str
    first_token: int
    cached_tokens: int


def transfer_error(room: int | None, reason: str) -> str:
    """SGLang's exception of a failed transfer, as text."""
    return f"KVTransferError(bootstrap_room={room}): {reason}"


def prefill_failure(stage: str, job: Job, reason: str) -> Failure:
    """`stage`: bootstrap or transfer."""
    return Failure(
        f"Prefill {stage} failed for request rank=0 req.rid={job.rid!r} req.bootstrap_room={job.room} "
        f"with exception {transfer_error(job.room, reason)}"
    )


def decode_failure(stage: str, job: Job, reason: str) -> Failure:
    """`stage`: handshake or transfer."""
    return Failure(
        f"Decode {stage} failed for request rank=0 decode_req.req.rid={job.rid!r} "
        f"decode_req.req.bootstrap_room={job.room} with exception {transfer_error(job.room, reason)}"
    )


def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


@dataclass(eq=False, slots=True)
class Room:
    """One transfer. Futures, because each side waits for what the other does."""

    number: int
    prefill_here: bool = False
    decode_session: str | None = None
    kv: Kv | None = None
    broken: str | None = None
    """Why the transfer failed; both sides see it."""
    came: asyncio.Future[None] = field(default_factory=_future)
    """Decode has shaken hands."""
    ready: asyncio.Future[None] = field(default_factory=_future)
    """Prefill has computed the KV, or has broken the room."""
    done: asyncio.Future[None] = field(default_factory=_future)
    """The transfer has ended; `broken` says how."""


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Rooms:
    """Prefill's bootstrap server and the rooms on it."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._rooms: dict[int, Room] = {}
        self._dead_sessions: dict[str, float] = {}
        self.registered = False
        """Whether the ranks have announced themselves: 503 before."""
        self.last_transfer_s = 0.0
        self.transferred_bytes = 0

    @property
    def waiting_for_decode(self) -> int:
        """Requests in the bootstrap queue."""
        return sum(room.prefill_here and not room.came.done() for room in self._rooms.values())

    @property
    def in_transfer(self) -> int:
        """Requests whose KV is on its way."""
        return sum(room.ready.done() and not room.done.done() for room in self._rooms.values())

    @property
    def open(self) -> int:
        """Rooms that somebody waits in."""
        return len(self._rooms)

    def enter(self, job: Job) -> Room:
        """Prefill comes.

        Raises:
            Failure: another request is in the room.
        """
        assert job.room is not None
        room = self._rooms.setdefault(job.room, Room(job.room))
        if room.prefill_here:
            raise prefill_failure("bootstrap", job, "bootstrap_room mismatch: the room is in use")
        room.prefill_here = True
        return room

    def leave(self, room: Room) -> None:
        """Prefill goes; a decode that still waits is not told, as in SGLang: it has its timeout."""
        room.prefill_here = False
        if room.done.done() or room.decode_session is None:
            self._rooms.pop(room.number, None)

    def break_session(self, session: str, now_s: float) -> None:
        """Mooncake has failed once towards `session`: later sends fail at once."""
        self._dead_sessions[session] = now_s

    def session_alive(self, session: str, now_s: float) -> bool:
        """0.5.2 never forgives; 0.5.23 probes again after a while."""
        since = self._dead_sessions.get(session)
        if since is not None and self._config.modern and now_s - since >= self._config.session_probe_s:
            del self._dead_sessions[session]
            return True
        return since is None

    def deliver(self, room: Room, kv: Kv) -> None:
        """The KV is computed."""
        room.kv = kv
        _settle(room.ready)

    def fail(self, room: Room, reason: str) -> None:
        """The transfer fails, and both sides are told."""
        room.broken = reason
        _settle(room.ready)
        _settle(room.done)

    def application(self) -> web.Application:
        """The bootstrap server."""
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/route", self._route)
        app.router.add_post("/kv", self._receive)
        app.router.add_delete("/kv", self._give_up)
        return app

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(text="OK")

    async def _route(self, request: web.Request) -> web.Response:
        size, ranks = self._config.tp_size, self._config.dp_size
        if not self._config.modern:
            return web.json_response({"prefill_attn_tp_size": size, "prefill_dp_size": ranks})
        if not self.registered:
            return web.Response(status=503, text="Prefill server not fully registered yet")
        return web.json_response(
            {
                "attn_tp_size": size,
                "attn_cp_size": 1,
                "dp_size": ranks,
                "pp_size": 1,
                "page_size": self._config.page_size,
                "kv_cache_dtype": "auto",
                "follow_bootstrap_room": True,
            }
        )

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        """A decode wants the KV of a room: held until it is there."""
        number, session = int(request.query["room"]), request.query["session"]
        room = self._rooms.setdefault(number, Room(number))
        if room.decode_session is not None:
            return web.Response(status=409, text="bootstrap_room mismatch: the room is in use")
        room.decode_session = session
        _settle(room.came)
        try:
            await asyncio.shield(room.ready)
            if room.broken is None:
                await asyncio.sleep(float(request.query["transfer_s"]))
            if room.broken is not None or room.kv is None:
                return web.Response(status=502, text=room.broken or "")
            answer = web.Response(body=msgspec.json.encode(room.kv))
            await answer.prepare(request)
            await answer.write_eof()
            return answer
        except BaseException:
            if not room.done.done():
                room.broken = f"Failed to send kv chunk of {number} to {request.remote}"
            raise
        finally:
            _settle(room.done)
            if not room.prefill_here:
                self._rooms.pop(number, None)

    async def _give_up(self, request: web.Request) -> web.Response:
        """Decode's request was aborted: what prefill still sends goes nowhere, and that is no failure."""
        room = self._rooms.get(int(request.query["room"]))
        if room is not None:
            _settle(room.done)
        return web.Response()
