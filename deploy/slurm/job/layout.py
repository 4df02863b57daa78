"""Which node has which part, and on which ports: of the settings alone, before any node is asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deploy.slurm.job.settings import JobSettings, Layout
from proxy.errors import SettingsError
from proxy.roster import Role


@dataclass(frozen=True, slots=True)
class Place:
    """One node's part. Ranks are the job's: 0 has the proxy, then come the prefills, then the decodes."""

    rank: int
    node: str
    role: Role | None
    """The worker's; None: there is no worker here."""
    has_proxy: bool
    has_etcd: bool
    worker_port: int

    @property
    def title(self) -> str:
        """For people: `proxy`, `proxy and prefill`, `decode`."""
        return " and ".join(["proxy"] * self.has_proxy + ([self.role.value] if self.role else []))

    @property
    def name(self) -> str:
        """The node and what it is there for."""
        return f"node {self.rank} ({self.node}, {self.title})"


def places(settings: JobSettings, nodes: list[str]) -> tuple[Place, ...]:
    """Every node's part; nodes beyond those that are needed have none.

    Args:
        settings: the job's.
        nodes: names, in the order of Slurm's list.

    Raises:
        SettingsError: there are too few nodes.
    """
    if len(nodes) < settings.nodes:
        what = f"xP={settings.prefills} and yD={settings.decodes}"
        if settings.layout is Layout.SEPARATE:
            what += " and the proxy's node"
        raise SettingsError(
            f"{what} need {settings.nodes} nodes, the job has {len(nodes)}: "
            f"sbatch -N {settings.nodes} -n {settings.nodes} ..."
        )
    return tuple(_places(settings, nodes))


def _places(settings: JobSettings, nodes: list[str]) -> Iterator[Place]:
    roles: list[Role | None] = [Role.PREFILL] * settings.prefills
    roles += [Role.DECODE] * settings.decodes
    if settings.layout is Layout.SEPARATE:
        roles.insert(0, None)
    for rank, role in enumerate(roles):
        head = rank == 0
        etcd = rank < int(settings.etcd_members)
        yield Place(rank, nodes[rank], role, head, etcd, _worker_port(settings, head, etcd))


def _worker_port(settings: JobSettings, has_proxy: bool, has_etcd: bool) -> int:
    """The usual one, or the next that no neighbour has: clients expect the proxy on its own port."""
    taken = {settings.bootstrap_port}
    if has_proxy:
        taken.add(settings.proxy_port)
    if has_etcd:
        taken |= {settings.etcd_port, settings.etcd_port + 1}
    port = settings.worker_port
    while port in taken:
        port += 1
    return port


def ports(settings: JobSettings, place: Place) -> dict[int, str]:
    """Every port that will be listened on there, and who will."""
    found: dict[int, str] = {}
    if place.has_etcd:
        found |= {settings.etcd_port: "etcd", settings.etcd_port + 1: "etcd's peers"}
    if place.has_proxy:
        found[settings.proxy_port] = "the proxy"
    if place.role is not None:
        found[place.worker_port] = f"the {place.role.value}"
    if place.role is Role.PREFILL:
        found[settings.bootstrap_port] = "the prefill's bootstrap server"
    return found
