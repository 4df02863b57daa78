"""Whom a connection to a worker works for: the leg that takes an answer, and the owner of the connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from proxy.upstream.framing import ResponseHead

if TYPE_CHECKING:
    from proxy.upstream.connection import UpstreamConnection


class Leg(Protocol):
    """Who takes a worker's answer, one request at a time."""

    raw: bool
    """Whether whole events may come with the worker's own chunk framing around them."""
    connection: UpstreamConnection | None
    """What carries it; None before it is sent and after its end."""

    def on_head(self, head: ResponseHead) -> None:
        """The response head is here."""

    def on_whole(self, head: ResponseHead, body: bytes) -> None:
        """The whole answer at once, head and a body that is no event stream; nothing else follows."""

    def on_raw(self, data: bytes) -> None:
        """Whole events, still framed as whole chunks (only if `raw`)."""

    def on_events(self, payload: bytes) -> None:
        """Whole events, without framing; at the body's end possibly a last part of one."""

    def on_body(self, piece: bytes) -> None:
        """A piece of a body that is no event stream."""

    def on_end(self) -> None:
        """The answer has ended as its framing says."""

    def on_broken(self, reason: str, *, untouched: bool, reused: bool) -> None:
        """The connection or the framing broke first.

        Args:
            reason: what happened, for people.
            untouched: before any byte of an answer.
            reused: on a connection that has served before.
        """


class Owner(Protocol):
    """Whose connection it is."""

    host_line: bytes
    """The Host header line of requests to there, with its end."""

    def on_made(self, connection: UpstreamConnection) -> None:
        """It is open."""

    def on_idle(self, connection: UpstreamConnection) -> None:
        """Its answer has ended, and it can take another request."""

    def on_lost(self, connection: UpstreamConnection) -> None:
        """It is closed."""
