"""Faults on demand: what goes wrong, for whom, how often. Where each strikes stands at its kind."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal[
    "refuse",  # the listener closes for `for_s` seconds; the connections that are open stay
    "reset",  # RST after `after_bytes` bytes of body; 0: before the head
    "truncate",  # the body ends without its end, after `after_events` events
    "hang",  # nothing more comes: `before_head`, or after `after_events` events
    "status",  # `status` with `message`, in SGLang's own form
    "abort",  # finish reason abort with `status`, after `after_events` tokens
    "error_event",  # an event {"error": ...} after `after_events` events, then [DONE]
    "role_then_abort",  # chat: the role chunk, then finish reason abort
    "length_zero",  # finish reason length with no token
    "empty",  # 200 and nothing
    "kv_transfer",  # the KV transfer fails, on both sides; `session_dead` blacklists the decode
    "kv_bootstrap",  # this side fails its handshake; the other side is not told
    "die",  # the process ends with SIGKILL after `after_events` events
]
DATA_ROUTES = ("/generate", "/v1/completions", "/v1/chat/completions")


class Fault(BaseModel):
    """One rule. The first rule that fits a request and wins its dice is the request's fault."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    probability: float = Field(default=1.0, gt=0, le=1)
    count: int | None = Field(
        default=None, ge=1, description="requests that it hits, then it is spent; none: no end"
    )
    routes: tuple[str, ...] = DATA_ROUTES
    after_events: int = Field(default=0, ge=0, description="events (tokens, for abort) that go out before")
    after_bytes: int = Field(default=0, ge=0)
    before_head: bool = False
    status: int | None = Field(default=None, ge=400, le=599, description="in `abort`, none is a user's own")
    message: str | None = None
    for_s: float = Field(default=1.0, gt=0, le=3600)
    session_dead: bool = False


@dataclass(slots=True)
class _Armed:
    fault: Fault
    hits: int = 0


class Faults:
    """The rules in force, and their dice."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._armed: list[_Armed] = []

    def add(self, fault: Fault, seed: int | None = None) -> None:
        """Arms a rule; `seed` restarts the dice."""
        if seed is not None:
            self._dice.seed(seed)
        self._armed.append(_Armed(fault))

    def clear(self) -> None:
        """Disarms all."""
        self._armed.clear()

    def pick(self, path: str) -> Fault | None:
        """The fault of a request that just arrived for `path`."""
        for armed in self._armed:
            fault = armed.fault
            if path not in fault.routes or (fault.count is not None and armed.hits >= fault.count):
                continue
            if self._dice.random() < fault.probability:
                armed.hits += 1
                return fault
        return None

    def listing(self) -> list[dict[str, object]]:
        """Every rule with its hits."""
        return [{**armed.fault.model_dump(), "hits": armed.hits} for armed in self._armed]
