"""What a worker says of itself in /server_info or /get_server_info. Tolerant: unknown stays unknown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from proxy.roster import Role, Worker


@dataclass(frozen=True, slots=True)
class Facts:
    """Fields as `Worker` has them, and the two that are only compared."""

    engine_version: str | None = None
    tp_size: int | None = None
    dp_size: int | None = None
    transfer_backend: str | None = None
    max_running_requests: int | None = None
    max_total_tokens: int | None = None
    bootstrap_port: int | None = None
    model: str | None = None
    mode: str | None = None
    """SGLang's disaggregation_mode: prefill, decode or null."""

    def contradicts(self, worker: Worker) -> str | None:
        """Why this server cannot be what we were told that it is; None if it can."""
        if self.mode in (Role.PREFILL, Role.DECODE) and self.mode != worker.role:
            return f"it was named as a {worker.role} worker but runs with --disaggregation-mode {self.mode}"
        return None

    def fill(self, worker: Worker) -> Worker:
        """`worker` with what it did not say itself.

        The model is left alone: it is the key of the worker's group, and moving workers one by one would
        tear a pool apart that serves any name as it is.
        """
        unknown: dict[str, Any] = {
            name: getattr(self, name)
            for name in _FILLED
            if getattr(worker, name) is None and getattr(self, name) is not None
        }
        if worker.role is Role.PREFILL and worker.bootstrap_port is None and self.bootstrap_port is not None:
            unknown["bootstrap_port"] = self.bootstrap_port
        return replace(worker, **unknown) if unknown else worker


_FILLED = (
    "engine_version",
    "tp_size",
    "dp_size",
    "transfer_backend",
    "max_running_requests",
    "max_total_tokens",
)


def read_facts(info: Mapping[str, object]) -> Facts:
    """Facts from the JSON object of either generation; what is missing or odd is None."""
    states = info.get("internal_states")
    state = states[0] if isinstance(states, list) and states and isinstance(states[0], dict) else {}
    dp_size = _count(info.get("dp_size"))
    running = _count(info.get("max_running_requests"))
    per_rank = _count(state.get("effective_max_running_requests_per_dp"))
    if running is None and per_rank is not None:
        running = per_rank * (dp_size or 1)
    port = _count(info.get("disaggregation_bootstrap_port"))
    return Facts(
        engine_version=_text(info.get("version")),
        tp_size=_count(info.get("tp_size")),
        dp_size=dp_size,
        transfer_backend=_text(info.get("disaggregation_transfer_backend")),
        max_running_requests=running,
        max_total_tokens=_count(info.get("max_total_num_tokens")),
        bootstrap_port=port if port is not None and port < 65536 else None,
        model=_text(info.get("served_model_name")) or _text(info.get("model_path")),
        mode=_text(info.get("disaggregation_mode")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
