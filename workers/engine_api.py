"""What the wrapper asks its own engine, over HTTP on this host: both generations, with deadlines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from proxy.roster import Role

FAKE_BOOTSTRAP_HOST = "2.2.2.2"
"""SGLang's name for a transfer that is not made: prefill and decode then run without a peer."""
_CALL_S = 5.0
_HEALTH_S = 25.0
"""why: SGLang's /health itself gives up after 20 s."""
_LOADS_QUERY = {"include": "core,disagg,queues"}
_ALL_RANKS = {
    "prefill_dp_rank": "-1",
    "prefill_cp_rank": "-1",
    "target_tp_rank": "-1",
    "target_pp_rank": "-1",
}
_NO_SUCH_ROUTE = (404, 405)
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Silent(Exception):
    """The engine did not answer: connection refused or cut, or no answer in time."""


@dataclass(frozen=True, slots=True)
class Load:
    """What runs on an engine, summed over its ranks. None: this generation does not tell."""

    busy: float
    """0 when nothing runs or waits. 0.5.23: requests; 0.5.2: tokens of rank 0."""
    running: int | None = None
    waiting: int | None = None
    transferring: int | None = None
    """Requests in one of the queues between prefill and decode."""
    used_tokens: int | None = None
    token_usage: float | None = None
    """Share of the KV pool, of the fullest rank."""
    kv_transfer_gb_per_s: float | None = None
    kv_transfer_s: float | None = None
    gen_tokens_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a started engine says of itself. None: it does not say."""

    version: str | None = None
    model: str | None = None
    max_total_tokens: int | None = None
    max_running_requests: int | None = None
    tp_size: int | None = None
    dp_size: int | None = None


class EngineApi:
    """Owns one client session; made inside a running loop, closed by `close`."""

    def __init__(
        self, role: Role, host: str, port: int, bootstrap_port: int | None, api_key: str | None
    ) -> None:
        dialled = _EVERY_ADDRESS.get(host, host)
        shown = f"[{dialled}]" if ":" in dialled else dialled
        self.url = f"http://{shown}:{port}"
        self._role = role
        self._bootstrap_url = f"http://{shown}:{bootstrap_port or 8998}"
        self._http = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else None
        )
        self._loads_path: str | None = "/v1/loads"

    async def close(self) -> None:
        """Ends the session."""
        await self._http.close()

    async def answers(self) -> bool:
        """Whether the API is up: by /ready, or by /health where that is not enough.

        An older engine has no /ready; and a newer one whose warm-up failed says 503 there for ever, unless
        /health, which generates a token, finds it well. While it still starts, both say 503 at once.

        Raises:
            Silent: no answer.
        """
        status, _ = await self._get(self.url + "/ready", _CALL_S)
        if status != 200:
            status, _ = await self._get(self.url + "/health", _HEALTH_S)
        return status == 200

    async def ranks_registered(self) -> bool:
        """Whether every rank of a prefill is known to its bootstrap server.

        0.5.23 tells on /route; an older one answers 400 or 500 to that question, and its /health says only
        that the server is there.

        Raises:
            Silent: no answer.
        """
        status, _ = await self._get(self._bootstrap_url + "/route", _CALL_S, _ALL_RANKS)
        if status not in (200, 503):
            status, _ = await self._get(self._bootstrap_url + "/health", _CALL_S)
        return status == 200

    async def canary(self, limit_s: float) -> str | None:
        """One token, without a peer.

        Returns:
            None if it came; else what came instead.

        Raises:
            Silent: no answer.
        """
        body: dict[str, Any] = {
            "input_ids": [1],
            "sampling_params": {"max_new_tokens": 1, "temperature": 0.0, "ignore_eos": True},
        }
        if self._role is not Role.REGULAR:
            body |= {"bootstrap_host": FAKE_BOOTSTRAP_HOST, "bootstrap_room": 0}
        status, answer = await self._ask("POST", self.url + "/generate", limit_s, body=body)
        meta = answer.get("meta_info") if isinstance(answer, Mapping) else None
        finish = meta.get("finish_reason") if isinstance(meta, Mapping) else None
        if status == 200 and isinstance(finish, Mapping) and finish.get("type") in ("length", "stop"):
            return None
        return f"HTTP {status}: {str(answer)[:300]}"

    async def facts(self) -> ServerFacts:
        """What it says of itself; nothing where it does not.

        Raises:
            Silent: no answer.
        """
        status, info = await self._get(self.url + "/server_info", _CALL_S)
        if status in _NO_SUCH_ROUTE:
            status, info = await self._get(self.url + "/get_server_info", _CALL_S)
        return read_facts(info) if status == 200 and isinstance(info, Mapping) else ServerFacts()

    async def load(self) -> Load | None:
        """What runs now; None where the engine answers, but not with that.

        Raises:
            Silent: no answer.
        """
        if self._loads_path == "/v1/loads":
            status, answer = await self._get(self.url + "/v1/loads", _CALL_S, _LOADS_QUERY)
            if status not in _NO_SUCH_ROUTE:
                return read_loads(answer) if status == 200 else None
            self._loads_path = "/get_load"
        status, answer = await self._get(self.url + "/get_load", _CALL_S)
        return read_load(answer) if status == 200 else None

    async def _get(self, url: str, limit_s: float, query: Mapping[str, str] | None = None) -> tuple[int, Any]:
        return await self._ask("GET", url, limit_s, query=query)

    async def _ask(
        self,
        method: str,
        url: str,
        limit_s: float,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
    ) -> tuple[int, Any]:
        """Status and JSON; None where the body is none."""
        try:
            async with self._http.request(
                method, url, params=query, json=body, timeout=aiohttp.ClientTimeout(total=limit_s)
            ) as answer:
                data = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Silent(f"{method} {url}: {str(error) or type(error).__name__}") from error
        try:
            return answer.status, msgspec.json.decode(data)
        except msgspec.DecodeError:
            return answer.status, None


def read_loads(answer: object) -> Load | None:
    """0.5.23's /v1/loads; None where it is not of its shape."""
    ranks = answer.get("loads") if isinstance(answer, Mapping) else None
    if not isinstance(ranks, list) or not ranks or not all(isinstance(rank, Mapping) for rank in ranks):
        return None
    running, waiting = _sum(ranks, "num_running_reqs"), _sum(ranks, "num_waiting_reqs")
    if running is None or waiting is None:
        return None
    between = [_mapping(rank.get("disaggregation")) for rank in ranks]
    queues = [name for name in between[0] if name.endswith("_queue_reqs")]
    transferring = sum(int(_sum(between, name) or 0) for name in queues)
    latency_ms = _most(between, "kv_transfer_latency_ms")
    used = _sum(ranks, "num_used_tokens")
    return Load(
        busy=running + waiting + transferring,
        running=int(running),
        waiting=int(waiting),
        transferring=transferring,
        used_tokens=None if used is None else int(used),
        token_usage=_most(ranks, "token_usage"),
        kv_transfer_gb_per_s=_most(between, "kv_transfer_speed_gb_s"),
        kv_transfer_s=None if latency_ms is None else latency_ms / 1e3,
        gen_tokens_per_s=_sum(ranks, "gen_throughput"),
    )


def read_load(answer: object) -> Load | None:
    """/get_load: an object with one number (0.5.2), or a list of ranks with counts of requests."""
    if isinstance(answer, Mapping):
        number = _number(answer.get("load"))
        return None if number is None else Load(busy=number)
    if isinstance(answer, list) and answer and all(isinstance(rank, Mapping) for rank in answer):
        requests = _sum(answer, "num_reqs")
        waiting = _sum(answer, "num_waiting_reqs")
        return None if requests is None else Load(busy=requests + (waiting or 0))
    return None


def read_facts(info: Mapping[str, Any]) -> ServerFacts:
    """/server_info or /get_server_info."""
    states = info.get("internal_states")
    state = _mapping(states[0]) if isinstance(states, list) and states else {}
    dp_size, running = _ranks(info), _count(info.get("max_running_requests"))
    per_rank = _count(state.get("effective_max_running_requests_per_dp"))
    version, model = info.get("version"), info.get("served_model_name")
    return ServerFacts(
        version=version if isinstance(version, str) and version else None,
        model=model if isinstance(model, str) and model else None,
        max_total_tokens=_count(info.get("max_total_num_tokens")),
        max_running_requests=running if per_rank is None else per_rank * (dp_size or 1),
        tp_size=_count(info.get("tp_size")),
        dp_size=dp_size,
    )


def _ranks(info: Mapping[str, Any]) -> int | None:
    """Data-parallel ranks. From 0.5.22 on those of DP attention are told apart from the others."""
    dp_size, attention = _count(info.get("dp_size")), _count(info.get("attn_dp_size"))
    return dp_size if attention is None else (dp_size or 1) * attention


def key_in(argv: tuple[str, ...]) -> str | None:
    """The key that the engine was told to want by `--api-key`."""
    for at, word in enumerate(argv):
        if word.startswith("--api-key="):
            return word.partition("=")[2]
        if word == "--api-key" and at + 1 < len(argv):
            return argv[at + 1]
    return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: object) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _known(parts: list[Any], name: str) -> list[float]:
    return [number for part in parts if (number := _number(part.get(name))) is not None]


def _sum(parts: list[Any], name: str) -> float | None:
    """None unless every part tells it: a sum without one rank would be too small."""
    known = _known(parts, name)
    return sum(known) if len(known) == len(parts) else None


def _most(parts: list[Any], name: str) -> float | None:
    return max(_known(parts, name), default=None)
