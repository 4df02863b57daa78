"""The nouns: workers, their roles and states, and changes of the set. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from urllib.parse import urlsplit


class Role(StrEnum):
    """What a worker does for a request."""

    PREFILL = "prefill"
    DECODE = "decode"
    REGULAR = "regular"


class State(StrEnum):
    """What a worker says of itself; only a ready one gets new requests."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Origin(StrEnum):
    """Who told us of a worker."""

    REGISTRY = "registry"
    STATIC = "static"
    API = "api"
    SNAPSHOT = "snapshot"


_NO_LABELS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Worker:
    """One SGLang server. None means unknown, and what is unknown pairs with all.

    Raises:
        ValueError: the url is not http(s)://host:port, or a number is out of its range.
    """

    worker_id: str
    """Unique over the registry; `role-host-port` unless its owner chose another."""
    url: str
    """http://host:port, no path, no trailing slash: where requests go."""
    role: Role
    model: str | None = None
    bootstrap_host: str | None = None
    """Prefill only: where decodes find its bootstrap server; the url's host when None."""
    bootstrap_port: int | None = None
    """Prefill only; None lets the engine use its own (8998)."""
    engine: str | None = None
    engine_version: str | None = None
    tp_size: int | None = None
    dp_size: int | None = None
    transfer_backend: str | None = None
    max_running_requests: int | None = None
    max_total_tokens: int | None = None
    weights_fingerprint: str | None = None
    node: str | None = None
    control_url: str | None = None
    """pd-worker's own port (http://host:port), where its /metrics is; None where there is no pd-worker."""
    instance: str | None = None
    """UUID of the process: another value under the same worker_id is another process."""
    state: State = State.READY
    started_at: float | None = None
    """Seconds since the epoch."""
    weight: float = 1.0
    labels: Mapping[str, str] = field(default_factory=lambda: _NO_LABELS, hash=False)
    origin: Origin = field(default=Origin.STATIC, compare=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError(f"worker url {self.url!r} is not of the form http://host:port")
        if parts.port is None:
            raise ValueError(f"worker url {self.url!r} names no port")
        if self.bootstrap_port is not None and not 0 < self.bootstrap_port < 65536:
            raise ValueError(f"bootstrap_port {self.bootstrap_port} is not a port")
        if self.weight <= 0:
            raise ValueError(f"weight {self.weight} is not positive")

    def __hash__(self) -> int:
        """By id alone: cheap, and equal workers have equal ids."""
        return hash(self.worker_id)

    @property
    def host(self) -> str:
        """The url's host, without brackets."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The url's port."""
        return urlsplit(self.url).port or 0


@dataclass(frozen=True, slots=True)
class Change:
    """One worker came, changed (same worker_id) or went (worker is None)."""

    worker_id: str
    worker: Worker | None
