"""Whether a failed attempt is worth another, and when: one pure decision."""

from __future__ import annotations

import random
from dataclasses import dataclass

from proxy.upstream.outcome import Failure, Outcome


@dataclass(frozen=True, slots=True)
class RetryRules:
    """How often, and how patiently. Seconds."""

    attempts: int = 5
    """In all, the first one included."""
    initial_backoff_s: float = 0.05
    max_backoff_s: float = 2.0
    never: frozenset[Outcome] = frozenset()
    """What the operator does not want made again."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Another attempt is worth it."""

    delay_s: float
    counted: bool
    """Whether the failed attempt counts as one; a race with a closing connection does not."""


class GiveUp:
    """It is not: the client is told."""


GIVE_UP = GiveUp()


def decide(failure: Failure, attempts: int, rules: RetryRules, rng: random.Random) -> Retry | GiveUp:
    """What to do about a failed attempt, were there no other request in the world.

    Args:
        failure: how it failed.
        attempts: how many have been made, this one included.
        rules: the bounds.
        rng: chance, for the jitter.
    """
    if failure.outcome is Outcome.STALE_CONNECTION:
        return Retry(0.0, counted=False)
    if not failure.replayable or failure.outcome in rules.never or attempts >= rules.attempts:
        return GIVE_UP
    longest = min(rules.max_backoff_s, rules.initial_backoff_s * 2 ** (attempts - 1))
    return Retry(rng.uniform(0.0, longest), counted=True)
