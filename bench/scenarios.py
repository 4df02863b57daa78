"""The scenarios: what is sent, how long, and the bars that our proxy must keep."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

VOCABULARY = 151_000
"""Token ids of a current model have up to six digits."""


@dataclass(frozen=True, slots=True)
class Bar:
    """At most `limit` of a metric: of our figure over theirs if `is_ratio`, else of ours alone."""

    metric: str
    limit: float
    is_ratio: bool = True


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load. Times are seconds unless the name says otherwise."""

    name: str
    title: str
    body: Callable[[], bytes]
    connections: int
    bars: tuple[Bar, ...]
    rounds: int = 5
    window_s: float = 2.0
    tokens: int = 16
    """Events that decode sends for one streamed request."""
    is_stream: bool = False
    interval_ms: float = 50.0
    """Between two events of a stream."""
    ramp_ms: int = 0
    """The connections are opened evenly over this time."""
    hold_after: int = 0
    """Streams rest after so many tokens, and memory is read while they do; 0: they never rest."""
    with_direct: bool = False
    """Measure the stub without a proxy in each round too: what a proxy adds is the difference."""
    with_peer: bool = True

    def limit_s(self) -> float:
        """By when one run must have ended, or its unfinished requests count as failures."""
        return 60.0 + self.window_s + (self.ramp_ms + 1.5 * self.tokens * self.interval_ms) / 1000


def http_request(body: bytes) -> bytes:
    """The bytes that every proxy is sent, the same for all."""
    head = (
        "POST /generate HTTP/1.1\r\n"
        "Host: bench\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n"
        "\r\n"
    )
    return head.encode() + body


def _body(stream: bool = False, **prompt: object) -> bytes:
    fields: dict[str, object] = {**prompt, "sampling_params": {"temperature": 0.3, "max_new_tokens": 256}}
    return json.dumps({**fields, "stream": True} if stream else fields).encode()


def _small() -> bytes:
    return _body(text="Let me tell you a story ")


def _small_stream() -> bytes:
    return _body(text="Let me tell you a story ", stream=True)


def _text_1m() -> bytes:
    words = random.Random(1).choices(
        ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs"], k=210_000
    )
    return _body(text=" ".join(words)[:1_000_000])


def _ids_131k() -> bytes:
    chance = random.Random(1)
    return _body(input_ids=[chance.randrange(VOCABULARY) for _ in range(131_072)])


_IDLE = Scenario(
    name="idle",
    title="5,000 open idle streams, 1 token each",
    body=_small_stream,
    connections=5_000,
    bars=(Bar("kb_per_stream", 15.0, is_ratio=False),),
    rounds=1,
    tokens=2,  # the second is sent when the memory has been read, so that a lost stream shows
    is_stream=True,
    ramp_ms=5_000,
    hold_after=1,
)


def with_tokens(scenario: Scenario, tokens: int) -> Scenario:
    """The same scenario with streams of another length; those that rest do so after `tokens`."""
    if scenario.hold_after:
        title = f"{scenario.connections:,} open idle streams, {tokens:,} tokens each"
        return replace(scenario, title=title, tokens=tokens + 1, hold_after=tokens)
    return replace(scenario, tokens=tokens)


_ALL = (
    Scenario("small", "small JSON, 32 connections", _small, 32, (Bar("cpu_us_per_request", 0.40),)),
    Scenario("single", "small JSON, one connection", _small, 1, (), rounds=3, with_direct=True),
    Scenario(
        "stream",
        "500 paced streams, an event each 50 ms",
        _small_stream,
        500,
        (Bar("cpu_us_per_event", 0.95),),
        window_s=5.0,
        is_stream=True,
        tokens=130,
        ramp_ms=1_037,  # no multiple of the interval: the streams' phases spread over it
        with_direct=True,
    ),
    Scenario(
        "text1m", "1 MB of text, 8 connections", _text_1m, 8, (Bar("cpu_us_per_request", 0.50),), rounds=7
    ),
    Scenario("ids131k", "131,072 input_ids, 8 connections", _ids_131k, 8, (Bar("cpu_us_per_request", 0.25),)),
    _IDLE,
    # No bar: the text and the ids of 2,000 tokens, which continuation needs, are 20 KB by themselves.
    replace(with_tokens(_IDLE, 2_000), name="idle2000", bars=(), interval_ms=300.0, with_peer=False),
)

SCENARIOS = {scenario.name: scenario for scenario in _ALL}
DEFAULT = ("small", "single", "stream", "text1m", "ids131k", "idle")


def quick(scenario: Scenario) -> Scenario:
    """The same load for a glance: fewer rounds, shorter windows."""
    tokens = 80 if scenario.is_stream and not scenario.hold_after else scenario.tokens
    return replace(
        scenario, rounds=min(scenario.rounds, 2), window_s=min(scenario.window_s, 1.5), tokens=tokens
    )
