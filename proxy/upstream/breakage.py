"""What both legs make of a connection that broke."""

from __future__ import annotations

from typing import Protocol

from proxy.roster import Role
from proxy.upstream.outcome import Failure, Outcome


class LegOwner(Protocol):
    """Who hears what becomes of the legs."""

    def judged(self, failure: Failure | None) -> None:
        """Decode's answer has failed, or has something for the client."""

    def decode_over(self, failure: Failure | None) -> None:
        """Decode's answer has ended, or broken off, after a good verdict."""

    def prefill_over(self, failure: Failure | None) -> None:
        """Prefill's leg has ended, one way or the other."""


class _Nobody:
    """Hears what comes after the end."""

    def judged(self, failure: Failure | None) -> None:
        pass

    decode_over = prefill_over = judged


NOBODY: LegOwner = _Nobody()


def broken(reason: str, role: Role, untouched: bool, reused: bool, begun: bool) -> Failure:
    """What a connection that broke means."""
    if untouched and reused:
        return Failure(Outcome.STALE_CONNECTION, reason, 502, role)
    if untouched:
        return Failure(Outcome.RESET, reason, 502, role)
    return Failure(Outcome.TRUNCATED_MIDSTREAM if begun else Outcome.TRUNCATED, reason, 502, role)
