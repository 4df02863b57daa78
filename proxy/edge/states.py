"""The states of a client's connection, and how long it may stay in each."""

from __future__ import annotations

from enum import Enum

from proxy.edge.door import DoorRules
from proxy.errors import SlowClient

# Plain numbers: they are compared for every piece of data.
HEAD = 0
"""Reading a head, or idle."""
BODY = 1
SERVING = 2
LINGERING = 3
"""Throwing away what still comes."""
CATCHING_UP = 4
"""Answered, but the client has not taken it: the next request waits, or its answers would pile up."""
CLOSING = 5
"""As good as closed, once the client has taken the rest."""
CLOSED = 6
"""Closed, or handed over."""

_LINGER_S = 2.0  # why: closing with unread bytes resets the connection, and the client never sees its answer


class Overdue(Enum):
    """What a client has taken too long for."""

    HEAD = "sending a request's head"
    BODY = "sending a request's body"
    TAKING = "taking its answer, or leaving"
    IDLE = "sending a request at all"


def overdue(state: int, waited_s: float, body_s: float, begun: bool, rules: DoorRules) -> Overdue | None:
    """Which deadline has passed, if one has.

    Args:
        state: the connection's.
        waited_s: since the state began, or last made progress.
        body_s: since the present request's body began.
        begun: in `HEAD` whether part of a head is here, in `SERVING` whether the answer has stalled.
        rules: the limits.
    """
    if state == HEAD:
        if begun and waited_s > rules.head_s:
            return Overdue.HEAD
        return Overdue.IDLE if waited_s > rules.keep_alive_s else None
    if state == BODY:
        late = waited_s > rules.body_s or body_s > rules.body_total_s
        return Overdue.BODY if late else None
    if state == SERVING:
        return Overdue.TAKING if begun and waited_s > rules.client_stall_s else None
    limit_s = _LINGER_S if state == LINGERING else rules.client_stall_s
    return Overdue.TAKING if waited_s > limit_s else None


def too_slow(late: Overdue, rules: DoorRules) -> SlowClient:
    """The error for a client whose request does not come in time: its head, or its body."""
    if late is Overdue.HEAD:
        return SlowClient(f"the request's head did not arrive within {rules.head_s:g} s")
    return SlowClient("the request's body did not arrive in time (settings limits.body_s, body_total_s)")
