"""What both legs make of a connection that broke."""

from __future__ import annotations

from proxy.roster import Role
from proxy.upstream.outcome import Failure, Outcome


def nobody(failure: Failure | None) -> None:
    """Hears what comes after the end."""


def broken(reason: str, role: Role, untouched: bool, reused: bool, begun: bool) -> Failure:
    """What a connection that broke means."""
    if untouched and reused:
        return Failure(Outcome.STALE_CONNECTION, reason, 502, role)
    if untouched:
        return Failure(Outcome.RESET, reason, 502, role)
    return Failure(Outcome.TRUNCATED_MIDSTREAM if begun else Outcome.TRUNCATED, reason, 502, role)
