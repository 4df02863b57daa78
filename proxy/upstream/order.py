"""What both workers of an attempt are sent, whatever the pair."""

from __future__ import annotations

import msgspec

from proxy.roster import Role, Worker
from proxy.upstream.classify import Judge
from proxy.upstream.patience import Patience
from proxy.upstream.splice import splice_tail

_WORTH_A_COPY = 32768  # why: below it one write of joined bytes costs less than a vectored one


class Order(msgspec.Struct, frozen=True):
    """A client's request as it goes on."""

    request_line: bytes
    """With its line's end."""
    headers: bytes
    """Header lines that go on, each with its line's end."""
    body: bytes
    """The client's body, a JSON object."""
    body_end: int
    """Offset of the body's last brace."""
    overrides: bytes
    """Members to add, each with a comma before it; they win over the client's own."""
    generate: bool
    """Whether the route is /generate."""
    stream: bool
    zero_ok: bool
    """Whether an answer with nothing to show may be what was asked for."""
    raw: bool
    """Whether decode's events may be relayed in its own chunks."""
    keep_prefill: bool
    """Whether prefill's answer is wanted."""
    patience: Patience | None = None
    """The client's own time limits."""

    def rest(self, prefill: Worker, room: int, rid: str) -> bytes | list[bytes | memoryview]:
        """All of the request behind its Host line, the same for both legs.

        The bootstrap keys stand in the place of the body's last brace.
        """
        end, tail = self.body_end, splice_tail(prefill, room, rid, self.overrides)
        size = end + len(tail)
        if end < _WORTH_A_COPY:
            return b"%bContent-Length: %d\r\n\r\n%b%b" % (self.headers, size, self.body[:end], tail)
        return [b"%bContent-Length: %d\r\n\r\n" % (self.headers, size), memoryview(self.body)[:end], tail]

    def judge(self, role: Role) -> Judge:
        """Who judges the answers of the leg of `role`."""
        return _JUDGES[self.generate, role, self.zero_ok or role is Role.PREFILL]


_JUDGES = {
    (generate, role, zero_ok): Judge(generate, role, zero_ok)
    for generate in (False, True)
    for role in (Role.PREFILL, Role.DECODE)
    for zero_ok in (False, True)
}
