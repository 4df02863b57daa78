"""Whether the sizes, nodes and ports of a worker fit together."""

from __future__ import annotations

from proxy.roster import Role
from workers.errors import ConfigurationError
from workers.launch_settings import LaunchSettings


def check_nodes(settings: LaunchSettings) -> None:
    """Refuses ranks, meeting places and ports that do not fit together.

    Raises:
        ConfigurationError: one does not fit.
    """
    if settings.node_rank >= settings.nnodes:
        raise ConfigurationError(
            f"node_rank: {settings.node_rank} is not one of {settings.nnodes} nodes: "
            "count from 0, or set --nnodes"
        )
    if settings.nnodes > 1 and settings.dist_init_addr is None:
        raise ConfigurationError(
            "dist_init_addr: several nodes need a place to meet: --dist-init-addr HOST_OF_RANK_0:PORT, "
            "the same on all"
        )
    taken = [settings.port] + ([settings.bootstrap_port] if settings.role is Role.PREFILL else [])
    if 0 in taken:
        raise ConfigurationError("port, bootstrap_port: 0 is no port that others could be told: choose one")
    if len(set(taken)) < len(taken):
        raise ConfigurationError(f"bootstrap_port: {settings.port} is the engine's own port: choose another")


def check_sizes(settings: LaunchSettings, gpus: int, tp_size: int, dp_size: int) -> None:
    """Refuses sizes that do not divide, or need more GPUs than the node has (0: not known).

    Raises:
        ConfigurationError: one does not fit.
    """
    if tp_size % settings.nnodes:
        raise ConfigurationError(
            f"tp_size: {tp_size} GPUs cannot be spread evenly over {settings.nnodes} nodes: "
            "choose a multiple of --nnodes"
        )
    if settings.dp_attention and (dp_size == 1 or tp_size % dp_size):
        raise ConfigurationError(
            f"dp_size: {dp_size} ranks of attention do not divide {tp_size} GPUs: choose --dp-size from "
            "2 on that divides --tp-size, or leave out --dp-attention"
        )
    if dp_size > 1 and settings.nnodes > 1 and not settings.dp_attention:
        raise ConfigurationError(
            "dp_size: SGLang has replicas on one node only: add --dp-attention, or start several workers"
        )
    replicas = 1 if settings.dp_attention else dp_size
    wanted = tp_size * replicas // settings.nnodes
    if 0 < gpus < wanted:
        raise ConfigurationError(
            f"tp_size: {wanted} GPUs are wanted on this node, which has {gpus}: "
            "choose a smaller --tp-size or --dp-size, or spread it with --nnodes"
        )
