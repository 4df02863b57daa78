"""Choosing a pair where not everybody may be chosen: caps, benches, and what a request has seen fail."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from proxy.roster import Role
from proxy.routing.group import Group
from proxy.routing.health import Health
from proxy.routing.lineup import Lineup
from proxy.routing.member import Member
from proxy.routing.placement import Edge

NO_EDGES: frozenset[Edge] = frozenset()
_MOST_WEIGHED = 16
"""Prefills whose edges are weighed when everything is benched: of 256 by 256 workers there are 65,536."""

Pair = tuple[Member, Member]
"""A prefill and a decode."""


def search(
    group: Group, lineup: Lineup, health: Health, avoid: Collection[Edge], keep: Member | None, now: float
) -> Pair | None:
    """A pair below its caps; None if one that is trusted has to be waited for.

    In this order: a trusted pair that this request has not seen fail, with the member to keep where that
    can be; a trusted one that it has seen fail; and only if there is none at all, free or full, the least
    bad of those that are benched, for a refusal is certain failure. Caps are no preference: they queue.
    """
    admitted = [member for member in lineup.prefills if member.breaker.admits(now)]
    free = [member for member in admitted if not member.full]
    if keep is not None and (pair := _with(keep, group, lineup, health, avoid, free, now)):
        return pair
    crowded = len(free) < len(admitted)
    again: tuple[Member, list[Member]] | None = None
    while free:
        prefill = group.prefill_policy.pick(free, now)
        fit = health.fit(prefill, lineup.partners[prefill], now)
        decodes = [decode for decode in fit if not decode.full]
        crowded = crowded or len(decodes) < len(fit)
        if fresh := _fresh(prefill, decodes, avoid):
            return prefill, group.decode_policy.pick(fresh, now)
        if decodes and again is None:
            again = prefill, decodes
        free.remove(prefill)
    if again is not None:
        return again[0], group.decode_policy.pick(again[1], now)
    return None if crowded else _least_bad(group, lineup, health, avoid, now)


def _fresh(prefill: Member, decodes: list[Member], avoid: Collection[Edge]) -> list[Member]:
    prefill_id = prefill.worker.worker_id
    return [d for d in decodes if (prefill_id, d.worker.worker_id) not in avoid] if avoid else decodes


def _with(
    keep: Member,
    group: Group,
    lineup: Lineup,
    health: Health,
    avoid: Collection[Edge],
    free: Sequence[Member],
    now: float,
) -> Pair | None:
    """A pair with `keep` in it that this request has not seen fail."""
    # With two partners it has failed already: it may well be the one to blame.
    if keep.full or sum(keep.worker.worker_id in edge for edge in avoid) > 1:
        return None
    if keep.worker.role is Role.DECODE:
        prefills = [
            prefill
            for prefill in free
            if keep in lineup.partners[prefill]
            and _fresh(prefill, [keep], avoid)
            and health.fit(prefill, [keep], now)
        ]
        return (group.prefill_policy.pick(prefills, now), keep) if prefills else None
    if keep not in free:
        return None
    fit = health.fit(keep, lineup.partners[keep], now)
    decodes = _fresh(keep, [decode for decode in fit if not decode.full], avoid)
    return (keep, group.decode_policy.pick(decodes, now)) if decodes else None


def _least_bad(
    group: Group, lineup: Lineup, health: Health, avoid: Collection[Edge], now: float
) -> Pair | None:
    """Of the pairs below their caps one of those benched for the shortest, rather one not to be avoided.

    By the length of the bench, which tells how many trials have failed, and not by how soon it ends:
    that would send everybody to one.
    """
    decodes_of: dict[tuple[bool, float], dict[Member, list[Member]]] = {}
    free = [member for member in lineup.prefills if not member.full]
    for _ in range(min(len(free), _MOST_WEIGHED)):
        prefill = group.prefill_policy.pick(free, now)
        free.remove(prefill)
        for decode in lineup.partners[prefill]:
            if not decode.full:
                failed_us = (prefill.worker.worker_id, decode.worker.worker_id) in avoid
                badness = (failed_us, health.badness(prefill, decode))
                decodes_of.setdefault(badness, {}).setdefault(prefill, []).append(decode)
    if not decodes_of:
        return None
    best = decodes_of[min(decodes_of)]
    prefill = group.prefill_policy.pick(list(best), now)
    return prefill, group.decode_policy.pick(best[prefill], now)
