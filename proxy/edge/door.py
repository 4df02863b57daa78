"""What all client connections share: the rules, the books, and where requests go."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from proxy.clock import Clock
from proxy.edge.body import check_size
from proxy.edge.head import HeadRules, RequestHead, parse_head
from proxy.errors import HeadTooLarge, PdError, Unauthorized
from proxy.flow.request import Reply, Request, Route
from proxy.routing.ledger import Ledger
from proxy.upstream.sweeper import Sweeper
from proxy.upstream.templates import Templates

if TYPE_CHECKING:
    from proxy.edge.connection import ClientConnection


@dataclass(frozen=True, slots=True)
class DoorRules:
    """What a client may do, and how long it may take. Seconds and bytes."""

    head: HeadRules = field(default_factory=HeadRules)
    body_bytes: int = 512 * 1024 * 1024
    head_s: float = 30.0
    """From a request's first byte (or the connection's start) to the end of its head."""
    body_s: float = 60.0
    """Without progress of the body."""
    body_total_s: float = 600.0
    keep_alive_s: float = 75.0
    control_s: float = 600.0
    """The whole of a connection that was handed to the control plane."""
    client_stall_s: float = 300.0
    """A client that takes nothing of its answer for so long is cut."""
    pipelined_bytes: int = 65536
    largest_n: int = 128
    max_connections: int = 65536
    api_key: bytes | None = None
    """What clients must send as a bearer token."""


class Corridor(Protocol):
    """Where requests go; flow.corridor has it."""

    async def serve(self, request: Request, reply: Reply) -> None:
        """Serves one request to its end. Never raises, but for being cancelled."""

    def refuse(self, route: Route, request_id: str, reply: Reply, error: PdError, received_at: float) -> None:
        """Answers a request that the door has found wanting."""


class Door:
    """Shared by all connections; owns the set of them."""

    def __init__(
        self,
        rules: DoorRules,
        corridor: Corridor,
        ledger: Ledger,
        sweeper: Sweeper,
        clock: Clock,
        new_request_id: Callable[[], str],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        control_protocol: Callable[[], asyncio.Protocol],
    ) -> None:
        """Makes the door.

        Args:
            rules: what clients may do.
            corridor: serves requests.
            ledger: counts the bytes of bodies.
            sweeper: looks at deadlines.
            clock: time.
            new_request_id: makes an id for a request that brings none.
            spawn: starts a request's task.
            control_protocol: makes aiohttp's server protocol, for all that is no data route.
        """
        self.rules = rules
        self.corridor = corridor
        self.ledger = ledger
        self.sweeper = sweeper
        self.now = clock.monotonic
        self.new_request_id = new_request_id
        self.spawn = spawn
        self.control_protocol = control_protocol
        self.loop = asyncio.get_running_loop()
        self.connections: set[ClientConnection] = set()
        self._heads: Templates[RequestHead] = Templates(
            lambda head: parse_head(head, rules.head), lower_case=False
        )
        self.locked = rules.api_key is not None
        """Whether clients must bring a key."""
        self.leaving = False
        """Whether every answer is its connection's last one."""

    def is_leaving(self) -> bool:
        """`leaving`, for those who ask later."""
        return self.leaving

    @property
    def full(self) -> bool:
        """Whether no more connections are taken."""
        return len(self.connections) >= self.rules.max_connections

    def head_too_large(self) -> HeadTooLarge:
        """The error for a request whose head has more than `rules.head.head_bytes`."""
        limit = self.rules.head.head_bytes
        return HeadTooLarge(f"the request's head is over {limit} bytes (setting limits.head_bytes)")

    def read_head(self, data: bytes, end: int) -> tuple[RequestHead, int]:
        """What the head `data[:end]` says, and the length of the body that it announces.

        Raises:
            BadRequest: it is malformed.
            HeadTooLarge: it has too many bytes, or headers.
            BodyTooLarge: it announces a body over the limit.
        """
        rules = self.rules
        if end > rules.head.head_bytes:
            raise self.head_too_large()
        parsed, length = self._heads.read(data, end)
        if length is None:
            length = parsed.content_length or 0
        if length > rules.body_bytes:
            check_size(length, rules.body_bytes)
        return parsed, length

    def check_key(self, authorization: bytes | None) -> None:
        """Raises Unauthorized if a request does not bring the key that is asked for."""
        key = self.rules.api_key
        if key is not None and not hmac.compare_digest(authorization or b"", b"Bearer " + key):
            raise Unauthorized("the API key is missing or wrong: send Authorization: Bearer KEY")

    def close_idle(self, idle_s: float) -> None:
        """Closes the connections that have served nothing for so long."""
        for connection in tuple(self.connections):
            connection.close_if_idle(idle_s)

    def cut_all(self) -> None:
        """Cuts every connection, which cancels what is on its way."""
        for connection in tuple(self.connections):
            connection.cut()

    @property
    def busy(self) -> int:
        """Connections with a request on its way."""
        return sum(connection.busy for connection in self.connections)
