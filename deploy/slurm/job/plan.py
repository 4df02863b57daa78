"""What runs on which node: decided from the settings and the nodes' looks, pure, printable."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import msgspec

from deploy.slurm.job import services, steps
from deploy.slurm.job.layout import Place
from deploy.slurm.job.services import Service
from deploy.slurm.job.settings import JobSettings, Runtime

UNKNOWN = "ADDRESS_OF_{node}"
"""In a dry run, where no node was asked."""


class NodePlan(msgspec.Struct, frozen=True):
    """All that the agent on one node has to know. Holds no secret: it stands in a command line."""

    job: str
    rank: int
    node: str
    title: str
    """What the node is there for, in words."""
    address: str
    registry: tuple[str, ...]
    """URLs of etcd's members."""
    log: str
    """The node's main log."""
    etcd: Service | None
    worker: Service | None
    proxy: Service | None
    """Rank 0's: who has it leads the job."""
    sweep: Service | None
    """Rank 0's, in benchmark mode."""
    url: str
    """Of the service, for clients."""
    parts: tuple[str, ...]
    """Every node of the job, in words, by rank."""
    workers: int
    """How many must serve before the service is ready."""
    start_s: int
    unserved_s: int
    orphaned_s: int

    @property
    def name(self) -> str:
        """The node and what it is there for."""
        return f"node {self.rank} ({self.node}, {self.title})"


class JobPlan(msgspec.Struct, frozen=True):
    """The whole job."""

    settings: JobSettings
    nodes: tuple[NodePlan, ...]
    steps: tuple[tuple[str, ...], ...]
    """Each node's srun, by rank."""
    shown: str
    """The last one for people, with the word PLAN for the node's plan, which is long."""
    notes: tuple[str, ...] = ()

    def render(self) -> str:
        """For people: every node's role, address, commands and logs."""
        settings, head = self.settings, self.nodes[0]
        mode = "serve until the job is ended" if settings.skip_benchmark else "benchmark, then end"
        where = (
            settings.runtime if settings.runtime is Runtime.NONE else f"{settings.runtime} {settings.image}"
        )
        lines = [
            f"job {settings.job}: {settings.model}, {settings.prefills}P{settings.decodes}D, "
            f"{settings.layout} layout, runtime {where}",
            f"mode:     {mode}",
            f"service:  {head.url}",
            f"registry: {', '.join(head.registry)}",
            f"logs:     {settings.logs}",
            *(f"note:     {note}" for note in self.notes),
        ]
        for node in self.nodes:
            lines += ["", f"{node.name} at {node.address}"]
            for service in (node.etcd, node.worker, node.proxy, node.sweep):
                if service is not None:
                    lines += _of_service(service)
            lines.append(f"  main log  {node.log}")
        lines += ["", f"each node's step is like the last one's, {self.nodes[-1].node}'s:", self.shown]
        return "\n".join(lines) + "\n"


def make_plan(
    settings: JobSettings,
    places: Sequence[Place],
    addresses: Sequence[str | None],
    weights: Sequence[str | None],
    passed: Sequence[str],
    notes: Sequence[str] = (),
) -> JobPlan:
    """Decides everything.

    Args:
        settings: the job's.
        places: every node's part.
        addresses: each node's by rank; None: not known, in a dry run.
        weights: each node's folder of them by rank; None: not known, or none needed.
        passed: names of the environment variables that the nodes' containers get.
        notes: what people should know.
    """
    known = [one or UNKNOWN.format(node=place.node) for one, place in zip(addresses, places, strict=True)]
    nodes = tuple(_node(settings, places, place, known, weights[place.rank]) for place in places)
    commands = tuple(
        steps.of_node(settings, place, msgspec.json.encode(node).decode(), passed)
        for place, node in zip(places, nodes, strict=True)
    )
    shown = shlex.join(steps.of_node(settings, places[-1], "PLAN", passed))
    return JobPlan(settings, nodes, commands, shown, tuple(notes))


def _node(
    settings: JobSettings,
    places: Sequence[Place],
    place: Place,
    addresses: Sequence[str],
    weights: str | None,
) -> NodePlan:
    registry = services.etcd_urls(settings, addresses)
    members = addresses[: int(settings.etcd_members)]
    sweeps = place.has_proxy and not settings.skip_benchmark
    head = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
    address = addresses[place.rank]
    return NodePlan(
        job=settings.job,
        rank=place.rank,
        node=place.node,
        title=place.title,
        address=address,
        registry=registry,
        log=services.main_log_of(settings, place),
        etcd=services.etcd(settings, place, members) if place.has_etcd else None,
        worker=services.worker(settings, place, address, weights, registry) if place.role else None,
        proxy=services.proxy(settings, place, registry) if place.has_proxy else None,
        sweep=services.sweep(settings, place, weights) if sweeps else None,
        url=f"http://{head}:{settings.proxy_port}",
        parts=tuple(each.name for each in places) if place.has_proxy else (),
        workers=settings.prefills + settings.decodes,
        start_s=settings.start_s,
        unserved_s=settings.unserved_s,
        orphaned_s=settings.orphaned_s,
    )


def _of_service(service: Service) -> list[str]:
    variables = "".join(f"{name}={shlex.quote(value)} " for name, value in service.env.items())
    return [f"  {service.name}  {variables}{shlex.join(service.argv)}", f"    log  {service.log}"]
