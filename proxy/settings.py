"""The settings: one frozen tree, validated once. How it is filled stands in `settings_loading`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ValidationInfo, field_validator

from proxy.settings_failures import Breaker, Health, Retries
from proxy.settings_section import Section
from proxy.settings_values import (
    Count,
    CountOrZero,
    EndpointUrl,
    HeaderName,
    Host,
    Key,
    Kind,
    LevelName,
    Listed,
    LowerCase,
    Password,
    Port,
    Prefill,
    RateAboveZero,
    ReadableFile,
    Seconds,
    Size,
    Text,
    Timeout,
    Versions,
    WorkerUrl,
)

KIB, MIB, GIB = 2**10, 2**20, 2**30
Policy = Annotated[Literal["round_robin", "random", "least_loaded", "power_of_two"], LowerCase]


class Server(Section):
    """The door: where clients connect, who may, and how the process ends."""

    host: Host = "0.0.0.0"
    """Address to listen on."""
    port: Port = 30000
    """Port to listen on, for the data routes and everything else."""
    backlog: Count = 4096
    """Connections that the kernel may hold until they are accepted."""
    max_connections: Count = 65536
    """Client connections at once; one over it is answered 503 and closed."""
    metrics_host: Host | None = None
    """Address of the separate port for /metrics; `host` when unset."""
    metrics_port: Port | None = None
    """A port of its own for /metrics, beside the main one."""
    admin_key: Key | None = None
    """Key for the routes that change something; without one they answer on loopback only."""
    api_key: Key | None = None
    """Key that clients must send as `Authorization: Bearer`; unset: anyone may."""
    lame_duck_s: Seconds = 2.0
    """After SIGTERM: how long it still accepts while readiness already says no."""
    drain_s: Seconds = 600.0
    """After the lame duck: how long live requests may take to finish."""
    request_id_headers: Listed[HeaderName] = ("x-request-id",)
    """Request headers that carry a request's id; the first one present wins."""

    @field_validator("metrics_port")
    @classmethod
    def _not_the_main_port(cls, port: int | None, info: ValidationInfo) -> int | None:
        if port and port == info.data.get("port") and not info.data.get("metrics_host"):
            raise ValueError("is server.port already, which serves /metrics anyway: leave it out")
        if port is None and info.data.get("metrics_host"):
            raise ValueError("server.metrics_host is given, so a port is needed too")
        return port


class Limits(Section):
    """What one client may take, and all of them together."""

    body_bytes: Size = 512 * MIB
    """Largest request body; 413 beyond."""
    head_bytes: Size = 64 * KIB
    """Largest request head; 431 beyond."""
    head_count: Count = 128
    """Most request headers; 431 beyond."""
    head_s: Timeout = 30.0
    """For a request's head to arrive; 408 beyond."""
    body_s: Timeout = 60.0
    """Longest pause while a request's body arrives; 408 beyond."""
    body_total_s: Timeout = 600.0
    """For a request's whole body to arrive; 408 beyond."""
    keep_alive_s: Timeout = 75.0
    """How long an idle client connection is kept."""
    held_bytes: Size = 4 * GIB
    """Bytes held for all requests and answers together; 503 beyond."""
    answer_bytes: Size = 64 * MIB
    """Largest non-streamed answer that is held whole; a larger one is relayed as it comes."""
    client_stall_s: Timeout = 300.0
    """A client that takes nothing for so long is cut."""
    fan_out: Count = 128
    """Most answers of one request (n)."""


class Upstream(Section):
    """The connections to the workers, and how long they may be silent."""

    connect_s: Timeout = 5.0
    """For a connection to a worker to stand."""
    idle_reuse_s: Seconds = 3.0
    """A connection idle for longer is not used again (SGLang closes its own after 5 s)."""
    max_idle_per_worker: CountOrZero = 512
    """Idle connections kept for each worker."""
    first_token_s: Timeout = 1800.0
    """For the first token, while the prefill leg is alive."""
    first_token_after_prefill_s: Timeout = 30.0
    """For the first token, once the prefill leg has ended."""
    stuck_s: Timeout = 60.0
    """For the first token of a request that seems to be lost: its workers answer newer ones, or its prefill
    answers nobody while others do. It is tried again, once. A second more for each 10 KB of it."""
    between_chunks_s: Timeout = 300.0
    """Longest silence within a stream; stands still while the client makes us wait."""
    drain_prefill_s: Timeout = 30.0
    """How long a prefill leg may outlive its request's answer; then it is aborted."""
    total_s: Timeout | None = None
    """For a whole non-streamed answer; unset: no limit. A stream's whole length has none."""
    longest_wait_s: Timeout = 3600.0
    """Longest that a request's own headers X-PD-Timeout, X-PD-First-Token-Timeout and X-PD-Stall-Timeout may
    ask for; more is cut to it."""
    aborts_per_s: RateAboveZero = 200.0
    """How many aborts a worker is sent each second; connections are closed at once in any case."""
    api_key: Key | None = None
    """Key sent to the workers as `Authorization: Bearer`."""
    logprobs_wait_s: Timeout = 5.0
    """How long a stream with logprobs waits for prefill's part of them."""


class Routing(Section):
    """Who serves a request, and who waits."""

    policy: Policy = "least_loaded"
    """How a worker is chosen."""
    prefill_policy: Policy | None = None
    """For prefills, where it differs from `policy`."""
    decode_policy: Policy | None = None
    """For decodes, where it differs from `policy`."""
    default_model: Text | None = None
    """Model of a request that names none, when several are served."""
    model_header: HeaderName = "x-pd-model"
    """Request header that names the model where the body cannot (/generate)."""
    max_in_flight_per_worker: Count | None = None
    """Requests at once on one worker; unset: the worker's own max_running_requests, where known."""
    queue_size: CountOrZero = 2048
    """Requests that may wait for a worker; 503 beyond."""
    queue_s: Seconds = 60.0
    """How long a request may wait for a worker; 503 after it."""
    slow_start_s: Seconds = 10.0
    """A new worker's share grows to its full one over so long."""
    require_equal_tp: bool = False
    """Refuse to pair workers of unequal tensor parallelism, instead of a warning."""
    compatible_versions: Listed[Versions] = ()
    """Pairs of unequal engine versions that may work together, as "0.5.22=0.5.23"."""


class Discovery(Section):
    """The registry of workers in etcd."""

    etcd_endpoints: Listed[EndpointUrl] = ()
    """etcd's members; empty: no registry, only the static list."""
    root: Text = "pd"
    """First part of every key: /<root>/v1/workers/..."""
    user: Text | None = None
    """User to log in to etcd as."""
    password: Password | None = None
    """That user's password."""
    ca_file: ReadableFile | None = None
    """CA certificates (PEM) that etcd's certificate must come from; unset: the system's."""
    cert_file: ReadableFile | None = None
    """Our own certificate (PEM) for etcd."""
    key_file: ReadableFile | None = None
    """The private key (PEM) of `cert_file`."""
    snapshot_path: Annotated[Path, Kind("a file", "FILE")] | None = None
    """Where the last known workers are kept, for a start while etcd is away."""
    panic_s: Seconds = 60.0
    """How long a sudden loss of many workers is disbelieved while they still answer."""

    @field_validator("root")
    @classmethod
    def _one_segment(cls, root: str) -> str:
        if not root or "/" in root:
            raise ValueError("is empty or holds a /")
        return root

    @field_validator("password")
    @classmethod
    def _with_a_user(cls, password: object, info: ValidationInfo) -> object:
        if (password is None) != (info.data.get("user") is None):
            raise ValueError("discovery.user and discovery.password go together")
        return password

    @field_validator("key_file")
    @classmethod
    def _with_a_certificate(cls, key_file: Path | None, info: ValidationInfo) -> Path | None:
        if (key_file is None) != (info.data.get("cert_file") is None):
            raise ValueError("discovery.cert_file and discovery.key_file go together")
        return key_file


class Static(Section):
    """Workers named here, with or without a registry beside them."""

    prefill: Listed[Prefill] = ()
    """Prefills, each with its bootstrap port (none: the engine's own, 8998)."""
    decode: Listed[WorkerUrl] = ()
    """Decodes."""
    model: Text | None = None
    """The model that the static workers serve; unset: unknown, which serves any name."""


class Log(Section):
    """What is said, and how."""

    level: Annotated[Literal["debug", "info", "warning", "error"], LevelName] = "info"
    """Least level that is written; one line a request is at info."""
    format: Annotated[Literal["auto", "json", "console"], LowerCase] = "auto"
    """How lines look; auto: console on a terminal, json elsewhere."""


class Settings(Section):
    """The whole tree."""

    server: Server = Server()
    limits: Limits = Limits()
    upstream: Upstream = Upstream()
    routing: Routing = Routing()
    retries: Retries = Retries()
    breaker: Breaker = Breaker()
    health: Health = Health()
    discovery: Discovery = Discovery()
    static: Static = Static()
    log: Log = Log()
