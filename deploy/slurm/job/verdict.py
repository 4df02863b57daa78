"""From all nodes' looks: what is in the way of a start, and the address of each node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from deploy.slurm.job.address import is_loopback
from deploy.slurm.job.layout import Place
from deploy.slurm.job.look import Look, failures
from deploy.slurm.job.settings import JobSettings

_SAME: tuple[tuple[str, Callable[[Look], str | None], str], ...] = (
    ("weights", lambda look: look.fingerprint, "copy one folder to all nodes"),
    ("image", lambda look: look.image, "load one image on all nodes"),
    ("SGLang", lambda look: look.engine_version, "use one image on all nodes"),
)
"""What must not differ: what it is, where it stands, what to do."""


def problems(settings: JobSettings, places: Sequence[Place], looks: Mapping[str, Look]) -> list[str]:
    """Everything that will not work, a line each that says where and what to do; empty: all is well."""
    return [*_unheard(settings, places, looks), *_of_nodes(settings, places, looks), *_between(places, looks)]


def notes(settings: JobSettings, places: Sequence[Place], looks: Mapping[str, Look]) -> list[str]:
    """What people should know of a start that will be tried."""
    if settings.preflight == "full":
        return []
    return [f"{name}: {line}, not heeded" for name, line in _findings(places, looks)]


def addresses(places: Sequence[Place], looks: Mapping[str, Look]) -> tuple[str | None, ...]:
    """Of every node by rank.

    Rank 0 finds no route to itself but the loopback's, or what its own name means to it: the others' word
    for it counts.
    """
    own = [looks[place.node].address if place.node in looks else None for place in places]
    if own[0] is None or is_loopback(own[0]):
        own[0] = next(iter(_heads(places, looks)), None)
    return tuple(own)


def _heads(places: Sequence[Place], looks: Mapping[str, Look]) -> list[str]:
    """What the others call rank 0, the most frequent first."""
    seen = (looks[place.node].head_address for place in places[1:] if place.node in looks)
    return [one for one, _ in Counter(one for one in seen if one and not is_loopback(one)).most_common()]


def _unheard(settings: JobSettings, places: Sequence[Place], looks: Mapping[str, Look]) -> Iterator[str]:
    for place in places:
        seen = looks.get(place.node)
        if seen is None:
            yield f"{place.name}: no answer within {settings.look_s} s (PD_JOB_LOOK_S): see above"
        elif seen.failed:
            yield f"{place.name}: {seen.failed}"


def _findings(places: Sequence[Place], looks: Mapping[str, Look]) -> Iterator[tuple[str, str]]:
    for place in places:
        for finding in failures(looks[place.node]) if place.node in looks else ():
            yield place.name, f"{finding.check}: {finding.said}: {finding.advice}"


def _of_nodes(settings: JobSettings, places: Sequence[Place], looks: Mapping[str, Look]) -> Iterator[str]:
    """`warn` lets pass what the doctor says; a port, an address or weights that are not there it cannot."""
    hard = ("port ", "address", "weights", "logs", "etcd")
    for name, line in _findings(places, looks):
        if settings.preflight == "full" or line.startswith(hard):
            yield f"{name}: {line}"


def _between(places: Sequence[Place], looks: Mapping[str, Look]) -> Iterator[str]:
    """What must be the same on all nodes."""
    for what, of, advice in _SAME:
        yield from _unequal(places, looks, what, of, advice)
    heard = [look for look in looks.values() if not look.failed]
    own = addresses(places, looks)
    if heard and own[0] is None and all(look.address for look in heard):
        yield (
            f"{places[0].name}: no other node knows an address of it: set PD_JOB_INTERFACE or PD_JOB_SUBNET"
        )
    known = [one for one in own if one is not None]
    for address, count in Counter(known).items():
        if count > 1:
            yield f"address: {count} nodes have {address}: set PD_JOB_INTERFACE or PD_JOB_SUBNET"


def _unequal(
    places: Sequence[Place],
    looks: Mapping[str, Look],
    what: str,
    of: Callable[[Look], str | None],
    advice: str,
) -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    for place in places:
        value = of(looks[place.node]) if place.node in looks else None
        if value is not None:
            groups.setdefault(value, []).append(place.node)
    if len(groups) > 1:
        told = "; ".join(f"{value} on {', '.join(nodes)}" for value, nodes in groups.items())
        yield f"{what}: not the same on all nodes: {told}: {advice}"
