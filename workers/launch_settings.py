"""Settings of a worker's launch: which engine, which model, which network, which of several nodes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_settings import NoDecode

from proxy.roster import Role

PORT = 30000
BOOTSTRAP_PORT = 8998
"""SGLang's own defaults, and what users' scripts expect."""


def _by_commas(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _as_in_a_shell(value: Any) -> Any:
    return shlex.split(value) if isinstance(value, str) else value


_Paths = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_by_commas)]
_Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_as_in_a_shell)]


class LaunchOptions(BaseModel):
    """What `--engine sglang` needs beside what every engine has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine_python: str = Field(
        default="python3", description="sglang: the interpreter that has SGLang; may be another than ours"
    )
    engine_module: str = Field(
        default="sglang.launch_server",
        pattern=r"^[A-Za-z_][\w.]*$",
        description="sglang: the module that is run, for one that prepares something first",
    )
    engine_arguments: _Words = Field(
        default=(), description="sglang: more flags for sglang.launch_server; what stands after `--`"
    )
    served_model_name: str | None = Field(
        default=None, min_length=1, description="sglang: the name that clients use; by default the model's"
    )
    model_path: Path | None = Field(
        default=None, description="sglang: folder of the weights, or a folder of models"
    )
    model_dirs: _Paths = Field(
        default=(), description="sglang: folders of models, searched in this order, separated by commas"
    )
    catalogue: Path | None = Field(default=None, description="sglang: TOML file with models of your own")
    advertise_host: str | None = Field(
        default=None, min_length=1, description="sglang: name or address at which other nodes reach this one"
    )
    node_name: str | None = Field(default=None, description="name of this node in the registry")
    ib_devices: str = Field(
        default="auto",
        description="sglang: RDMA devices, separated by commas; auto: those near the GPUs; none",
    )
    allow_tcp: bool = Field(
        default=False, description="sglang: let the KV cache go over TCP where there is no RDMA device"
    )
    transfer_backend: Literal["mooncake", "nixl", "mori"] = Field(
        default="mooncake", description="sglang: what carries the KV cache"
    )
    dp_attention: bool = Field(
        default=False, description="sglang: dp-size counts ranks of the attention within the tp-size GPUs"
    )
    nnodes: int = Field(default=1, ge=1, description="sglang: nodes that make up this one worker")
    node_rank: int = Field(default=0, ge=0, description="sglang: which of them this is; 0 is registered")
    dist_init_addr: str | None = Field(
        default=None, pattern=r"^.+:\d+$", description="sglang: host:port on rank 0 where its nodes meet"
    )
    log_dir: Path = Field(default=Path("logs"), description="sglang: folder of its log")
    log_name: str | None = Field(
        default=None,
        pattern=r"^[\w.-]+$",
        description="sglang: name of its log, without .log; by default role_NODE and the node's rank",
    )
    dry_run: bool = Field(default=False, description="sglang: print what would be launched, and end")


class LaunchSettings(LaunchOptions):
    """All that the plan is made of. None: not said, so that the catalogue or a default decides."""

    role: Role
    model: str
    host: str | None = None
    port: int = PORT
    bootstrap_port: int = BOOTSTRAP_PORT
    tp_size: int | None = None
    dp_size: int | None = None
    engine_version: str | None = None
    """Said by the user: then it is not looked for in the engine's interpreter."""
    api_key: str | None = Field(default=None, repr=False)
    worker_id: str | None = None
    registry_root: str = "pd"
    etcd_endpoints: tuple[str, ...] = ()
    """Only to find the address at which this node is reached from there."""
