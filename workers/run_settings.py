"""Settings of a worker's running: how long to wait, when to restart, how to end, where to listen."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_Limit = Annotated[float, Field(gt=0)]
_Wait = Annotated[float, Field(ge=0)]


class RunSettings(BaseModel):
    """What `--engine sglang` does around the engine. All times are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start_limit_s: _Limit = Field(
        default=1800, description="sglang: from launch to ready (weights, graphs); longer is a failure"
    )
    canary: bool = Field(
        default=True, description="sglang: register only after one token was generated without a peer"
    )
    canary_limit_s: _Limit = Field(default=120, description="sglang: for that one token")
    load_interval_s: _Limit = Field(default=5, description="sglang: between two readings of its load")
    hang_limit_s: _Wait = Field(
        default=600, description="sglang: a running engine silent for so long is restarted; 0: never"
    )
    crash_limit: int = Field(
        default=5,
        ge=0,
        description="sglang: crashes in a row that a restart answers; one more ends the worker",
    )
    crash_forgotten_s: _Limit = Field(
        default=600, description="sglang: a life that has served for so long ends a row of crashes"
    )
    restart_wait_s: _Wait = Field(
        default=1, description="sglang: before the first restart; doubles up to 60 s"
    )
    drain_settle_s: _Wait = Field(
        default=2,
        description="sglang: the proxies get so long to hear that it drains; idle for so long ends it",
    )
    drain_limit_s: _Wait = Field(
        default=600, description="sglang: running requests get so long to finish; then they are cut"
    )
    interrupt_limit_s: _Wait = Field(default=10, description="sglang: from SIGINT to SIGTERM")
    terminate_limit_s: _Wait = Field(default=20, description="sglang: from SIGTERM to SIGKILL")
    control_host: str | None = Field(
        default=None, description="sglang: address of the worker's own port; by default that of the engine"
    )
    control_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=0,
        description="sglang: the worker's own port (health, metrics, plan, drain); 0 takes a free one",
    )
    control_key: str | None = Field(
        default=None, min_length=1, description="sglang: key for POST /drain from elsewhere than loopback"
    )
    console: bool = Field(default=True, description="sglang: show the engine's output on the console too")
