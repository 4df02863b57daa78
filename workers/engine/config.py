"""What a simulated engine is told at its start: role, generation, limits, timing, failures' clocks."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from proxy.roster import Role

Seconds = Annotated[float, Field(ge=0)]
Port = Annotated[int, Field(ge=0, le=65535)]

# Behaviour of the wire changed between 0.5.2 and 0.5.23; what lies between is split here.
_MODERN_SINCE = (0, 5, 10)


class EngineConfig(BaseModel):
    """Every knob of one engine. The defaults answer at once and never fail."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role = Field(
        default=Role.REGULAR, description="in lower case: prefill, decode, or regular (serves alone)"
    )
    model: str = Field(default="simulated", min_length=1, description="name under which the model is served")
    host: str = Field(default="127.0.0.1", description="address to listen on, and to be reached at")
    port: Port = Field(default=0, description="port of the HTTP server; 0 takes any free one")
    bootstrap_port: Port = Field(
        default=0, description="prefill: port of the bootstrap server; 0 takes any free one"
    )
    engine_version: str = Field(
        default="0.5.23",
        pattern=r"^\d+\.\d+\.\d+",
        description="generation of SGLang to behave as: 0.5.2 or 0.5.23",
    )
    tp_size: int = Field(default=1, ge=1, description="tensor parallel size that is told to others")
    dp_size: int = Field(default=1, ge=1, description="data parallel ranks; a room's is room modulo dp_size")
    api_key: str | None = Field(default=None, description="key that every route but health and metrics wants")
    context_length: int = Field(default=2_097_152, ge=8, description="tokens of prompt and output at most")
    max_running_requests: int = Field(default=2048, ge=1, description="requests that hold a slot at a time")
    max_queued_requests: int | None = Field(
        default=None, ge=0, description="requests that may wait for a slot"
    )
    max_total_tokens: int = Field(default=8_388_608, ge=1, description="KV capacity that is told to others")
    incremental_streaming_output: bool = Field(
        default=False, description="stream disjoint deltas on /generate (--stream-output of 0.5.2)"
    )
    stream_interval: int = Field(default=1, ge=1, description="tokens an event carries, after the first")
    split_characters: bool = Field(
        default=False, description="print some characters as several tokens, byte by byte"
    )
    mean_output_tokens: int = Field(
        default=0, ge=0, description="outputs end by themselves after so many tokens on average; 0: never"
    )

    prefill_tokens_per_s: float = Field(default=0, ge=0, description="speed of prefill; 0: instant")
    decode_ms_per_token: float = Field(default=0, ge=0, description="time between tokens; 0: instant")
    kv_gb_per_s: float = Field(default=0, ge=0, description="bandwidth of the KV transfer; 0: instant")
    kv_latency_ms: float = Field(default=0, ge=0, description="latency of the KV transfer")
    kv_bytes_per_token: int = Field(
        default=131_072, ge=1, description="size of a token's KV (Llama-3.1-8B: 128 KiB)"
    )
    prefix_cache_tokens: int = Field(
        default=1_048_576, ge=0, description="tokens the prefix cache holds; 0: off"
    )
    page_size: int = Field(default=16, ge=1, description="tokens in a page of the prefix cache")

    bootstrap_timeout_s: Seconds = Field(
        default=300, description="prefill waits so long for decode's handshake"
    )
    waiting_timeout_s: Seconds = Field(default=300, description="decode waits so long for the KV")
    handshake_timeout_s: Seconds = Field(default=14, description="0.5.23: time to find the bootstrap server")
    lost_prefill_timeout_s: Seconds = Field(
        default=9.7, description="decode notices so late that its prefill died"
    )
    session_probe_s: Seconds = Field(
        default=30, description="0.5.23: a decode session marked dead is tried again"
    )
    keep_alive_timeout_s: Seconds = Field(default=5, description="idle connections are closed after this")
    drain_timeout_s: Seconds = Field(
        default=30, description="after SIGTERM: running requests get so long to finish"
    )
    startup_delay_s: Seconds = Field(default=0, description="time the weights take to load: state `starting`")
    seed: int = Field(default=0, description="seed of the faults' dice")

    @property
    def modern(self) -> bool:
        """Whether this generation tells failures in its answers, as 0.5.23 does."""
        return tuple(map(int, re.findall(r"\d+", self.engine_version)[:3])) >= _MODERN_SINCE
