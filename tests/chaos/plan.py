"""What strikes whom, and when: all of it from one seed, so that a run can be had again."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

KILL, FREEZE, ETCD = "kill", "freeze", "etcd"
TAKES_AWAY = frozenset([KILL, FREEZE, "die", "refuse"])
"""Strikes after which an engine does not serve for a while."""
_DOWN_S = (0.3, 2.5)
_BETWEEN_S = 0.4
# Kills and freezes take a worker away; more rarely, so that the fleet is hurt and not dead.
_DISRUPTIVE = {KILL: 3, FREEZE: 3, "die": 2, "refuse": 3, ETCD: 1}
_ON_A_REQUEST = {
    "truncate": 6,
    "reset": 5,
    "hang": 3,
    "status": 4,
    "abort": 4,
    "error_event": 4,
    "role_then_abort": 3,
    "length_zero": 3,
    "empty": 3,
    "kv_transfer": 6,
    "kv_bootstrap": 5,
}


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault."""

    at_s: float
    """Since the traffic began."""
    kind: str
    """`kill`, `freeze`, `etcd`, or a kind of workers.engine.faults."""
    target: int
    """Number of the engine; etcd has none."""
    down_s: float = 0.0
    """How long a killed engine, a frozen one or etcd stays away."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Of an engine's fault."""


def make_plan(seed: int, seconds: float, prefills: int, decodes: int, version: str) -> list[Strike]:
    """All strikes of a run, in their order; the last fifth is quiet, so that the fleet may heal."""
    dice = random.Random(seed)
    kinds = {**_DISRUPTIVE, **_ON_A_REQUEST}
    strikes: list[Strike] = []
    at_s = 1.0
    while at_s < seconds * 0.8:
        (kind,) = dice.choices(list(kinds), list(kinds.values()))
        strikes.append(_strike(dice, at_s, kind, prefills, decodes, version))
        at_s += dice.expovariate(1 / _BETWEEN_S)
    return strikes


def _strike(dice: random.Random, at_s: float, kind: str, prefills: int, decodes: int, version: str) -> Strike:
    target = dice.randrange(prefills + decodes)
    if kind in (KILL, FREEZE, ETCD):
        return Strike(at_s, kind, target, dice.uniform(*_DOWN_S))
    if kind == "refuse":
        return Strike(at_s, kind, target, fields={"for_s": round(dice.uniform(*_DOWN_S), 2)})
    fields: dict[str, Any] = {"count": dice.randint(1, 4)}
    if kind in ("truncate", "hang", "abort", "error_event", "die"):
        fields["after_events"] = dice.choice((0, 0, 1, 3, 9))
    if kind == "hang":
        fields["before_head"] = dice.random() < 0.5
        fields["count"] = 1
    if kind == "die":
        fields["count"] = 1
    if kind == "reset":
        fields["after_bytes"] = dice.choice((0, 100, 1000, 3000))
    if kind in ("abort", "status", "role_then_abort", "error_event"):
        fields["status"] = dice.choice((500, 503))
    if kind == "abort" and version == "0.5.2":
        # A stream of OpenAI's routes does not tell it from a bad request.
        fields["routes"] = ["/generate"]
    if kind == "kv_transfer":
        # 0.5.2 never forgives a dead session: a few of these, and no pair would be left that works.
        fields["session_dead"] = dice.random() < 0.3 and version != "0.5.2"
    return Strike(at_s, kind, target, fields=fields)
