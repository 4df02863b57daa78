"""Routes that only tell: health, model, server, loads, metrics. Bodies as captured from a real server."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from proxy.clock import Clock
from proxy.roster import Role
from workers.engine.answering import validation_error
from workers.engine.config import EngineConfig
from workers.engine.kv import Rooms
from workers.engine.kv_client import KvClient
from workers.engine.metrics import Exposition, Totals
from workers.engine.prefix_cache import PrefixCache
from workers.engine.protocol import Invalid, parse
from workers.engine.scheduler import Scheduler
from workers.engine.tokenizing import Answerer, detokenized, tokenized
from workers.engine.wire import HEADERS, plain


class Info:
    """Reads everything, changes nothing."""

    def __init__(
        self,
        config: EngineConfig,
        clock: Clock,
        scheduler: Scheduler,
        rooms: Rooms,
        kv_client: KvClient,
        cache: PrefixCache,
        totals: Totals,
        is_serving: Callable[[], bool],
    ) -> None:
        """`is_serving`: false while the weights load and while it drains; health fails then."""
        self._config = config
        self._clock = clock
        self._scheduler = scheduler
        self._rooms = rooms
        self._kv_client = kv_client
        self._cache = cache
        self._totals = totals
        self._is_serving = is_serving
        self._started_at = clock.time()
        self.address = ("", 0, 0)
        """Host, port and bootstrap port, once they are known."""
        mode = "null" if config.role is Role.REGULAR else config.role.value
        self._mode = mode
        engine_type = {Role.REGULAR: "unified"}.get(config.role, config.role.value)
        self._exposition = Exposition(
            {"model_name": config.model, "engine_type": engine_type, "tp_rank": "0", "pp_rank": "0"}
        )

    def routes(self) -> list[web.RouteDef]:
        """Those of the generation; what it does not have answers 404."""
        config = self._config
        found = [
            web.get("/health", self._health),
            web.get("/health_generate", self._health),
            web.get("/ping", self._health),
            web.get("/get_model_info", self._model_info),
            web.get("/get_server_info", self._server_info),
            web.get("/v1/models", self._models),
            web.get("/metrics", self._metrics),
        ]
        if config.modern:
            return [
                *found,
                web.get("/ready", self._health),
                web.get("/model_info", self._model_info),
                web.get("/server_info", self._server_info),
                web.get("/v1/loads", self._loads),
                *(web.post(path, self._tokenize) for path in ("/tokenize", "/v1/tokenize")),
                *(web.post(path, self._detokenize) for path in ("/detokenize", "/v1/detokenize")),
            ]
        return [
            *found,
            web.get("/get_load", self._load),
            web.get("/get_weight_version", self._weight_version),
        ]

    async def _tokenize(self, request: web.Request) -> web.Response:
        return self._answered(request, await request.read(), tokenized)

    async def _detokenize(self, request: web.Request) -> web.Response:
        return self._answered(request, await request.read(), detokenized)

    def _answered(self, request: web.Request, raw: bytes, answer: Answerer) -> web.Response:
        try:
            return answer(parse(raw), self._config.context_length)
        except Invalid as error:
            return validation_error(request, error, self._config.modern)

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self._is_serving() else 503, headers=HEADERS)

    async def _weight_version(self, request: web.Request) -> web.Response:
        return plain({"weight_version": "default"})

    async def _models(self, request: web.Request) -> web.Response:
        model = self._config.model
        card = {
            "id": model,
            "object": "model",
            "created": int(self._clock.time()),
            "owned_by": "sglang",
            "root": model,
            "parent": None,
            "max_model_len": self._config.context_length,
        }
        if not self._config.modern:
            del card["parent"]
        return plain({"object": "list", "data": [card]})

    async def _model_info(self, request: web.Request) -> web.Response:
        info: dict[str, Any] = {
            "model_path": self._config.model,
            "tokenizer_path": self._config.model,
            "is_generation": True,
            "preferred_sampling_params": None,
            "weight_version": "default",
        }
        if self._config.modern:
            info = {"model_path": info["model_path"], "served_model_name": self._config.model, **info}
            info |= {
                "load_format": "auto",
                "reasoning_parser": None,
                "tool_call_parser": None,
                "disaggregation_mode": self._mode,
                "has_image_understanding": False,
                "has_audio_understanding": False,
                "model_type": "llama",
                "architectures": ["LlamaForCausalLM"],
            }
        return plain(info)

    async def _server_info(self, request: web.Request) -> web.Response:
        """All arguments, the API key in clear, as SGLang does."""
        config, (host, port, bootstrap_port) = self._config, self.address
        arguments: dict[str, Any] = {
            "model_path": config.model,
            "tokenizer_path": config.model,
            "served_model_name": config.model,
            "context_length": config.context_length,
            "max_running_requests": config.max_running_requests,
            "max_queued_requests": config.max_queued_requests,
            "max_total_tokens": config.max_total_tokens,
            "page_size": config.page_size,
            "tp_size": config.tp_size,
            "dp_size": config.dp_size,
            "load_balance_method": "follow_bootstrap_room" if config.modern else "round_robin",
            "host": host,
            "port": port,
            "api_key": config.api_key,
            "stream_interval": config.stream_interval,
            "disaggregation_mode": self._mode,
            "disaggregation_transfer_backend": "mooncake",
            "disaggregation_bootstrap_port": bootstrap_port or 8998,
            "disaggregation_ib_device": None,
        }
        flag = "incremental_streaming_output" if config.modern else "stream_output"
        arguments[flag] = config.incremental_streaming_output
        state = {
            **arguments,
            "last_gen_throughput": 0.0,
            "memory_usage": {"weight": 0.0, "kvcache": 0.0, "token_capacity": config.max_total_tokens},
            "effective_max_running_requests_per_dp": config.max_running_requests,
        }
        return plain(
            {
                **arguments,
                "status": "ready",
                "max_total_num_tokens": config.max_total_tokens,
                "max_req_input_len": config.context_length - 6,
                "internal_states": [state] * config.dp_size,
                "version": config.engine_version,
            }
        )

    async def _load(self, request: web.Request) -> web.Response:
        return plain({"load": self._scheduler.used_tokens()})

    async def _loads(self, request: web.Request) -> web.Response:
        now = self._clock.time()
        stamp = datetime.fromtimestamp(now, UTC).isoformat()
        head = {
            "timestamp": stamp,
            "version": self._config.engine_version,
            "accelerator": None,
            "num_accelerators": self._config.tp_size,
        }
        return plain({**head, "loads": [self._rank_load(rank, now) for rank in range(self._config.dp_size)]})

    def _rank_load(self, rank: int, now: float) -> dict[str, Any]:
        """Requests are not told apart by rank: rank 0 has them all."""
        scheduler, rooms, busy = self._scheduler, self._rooms, rank == 0
        used = scheduler.used_tokens() if busy else 0
        capacity = self._config.max_total_tokens
        speed = rooms.transferred_bytes / 1e9 / max(now - self._started_at, 1e-3)
        return {
            "timestamp": now,
            "dp_rank": rank,
            "num_running_reqs": scheduler.running if busy else 0,
            "num_waiting_reqs": scheduler.queued if busy else 0,
            "num_waiting_uncached_tokens": 0,
            "num_used_tokens": used,
            "num_total_tokens": used,
            "num_active_tokens": used,
            "num_prealloc_ready_tokens": 0,
            "max_total_num_tokens": capacity,
            "max_running_requests": self._config.max_running_requests,
            "token_usage": used / capacity,
            "gen_throughput": 0.0,
            "cache_hit_rate": self._hit_rate(),
            "utilization": 0.0,
            "total_prefill_uncached_tokens": self._totals.prompt_tokens - self._totals.cached_tokens,
            "total_prefill_busy_us": 0,
            "decode_moments": None,
            "memory": {"weight_gb": 0.0, "kv_cache_gb": 0.0, "graph_gb": 0.0, "token_capacity": capacity},
            "disaggregation": {
                "mode": self._mode,
                "prefill_bootstrap_queue_reqs": rooms.waiting_for_decode if busy else 0,
                "prefill_inflight_queue_reqs": rooms.in_transfer if busy else 0,
                "decode_prealloc_queue_reqs": self._kv_client.handshaking if busy else 0,
                "decode_transfer_queue_reqs": self._kv_client.receiving if busy else 0,
                "decode_retracted_queue_reqs": 0,
                "kv_transfer_speed_gb_s": speed,
                "kv_transfer_latency_ms": rooms.last_transfer_s * 1e3,
            },
            "queues": {
                "waiting": scheduler.queued if busy else 0,
                "grammar": 0,
                "paused": 0,
                "retracted": 0,
                "prealloc_ready": 0,
            },
        }

    def _hit_rate(self) -> float:
        return self._cache.hit_tokens / max(self._cache.seen_tokens, 1)

    async def _metrics(self, request: web.Request) -> web.Response:
        scheduler, rooms, totals, shown = self._scheduler, self._rooms, self._totals, self._exposition
        used, capacity = scheduler.used_tokens(), self._config.max_total_tokens
        shown.gauges = {
            "num_running_reqs": scheduler.running,
            "num_queue_reqs": scheduler.queued,
            "num_used_tokens": used,
            "kv_used_tokens": used,
            "kv_available_tokens": max(capacity - used, 0),
            "token_usage": used / capacity,
            "full_token_usage": used / capacity,
            "max_total_num_tokens": capacity,
            "cache_hit_rate": self._hit_rate(),
            "gen_throughput": 0.0,
            "num_prefill_bootstrap_queue_reqs": rooms.waiting_for_decode,
            "num_prefill_inflight_queue_reqs": rooms.in_transfer,
            "num_decode_prealloc_queue_reqs": self._kv_client.handshaking,
            "num_decode_transfer_queue_reqs": self._kv_client.receiving,
            "context_len": self._config.context_length,
            "page_size": self._config.page_size,
        }
        shown.counters = {
            "num_requests_total": totals.requests,
            "prompt_tokens_total": totals.prompt_tokens,
            "generation_tokens_total": totals.generated_tokens,
            "cached_tokens_total": totals.cached_tokens,
        }
        rare = {
            "num_aborted_requests_total": scheduler.aborted,
            "num_bootstrap_failed_reqs_total": totals.bootstrap_failed,
            "num_transfer_failed_reqs_total": totals.transfer_failed,
        }
        # SGLang's labelled counters are not there before they have counted once.
        shown.counters |= {name: count for name, count in rare.items() if count}
        shown.histograms = {
            "time_to_first_token_seconds": totals.first_token_s,
            "e2e_request_latency_seconds": totals.whole_s,
        }
        if self._config.role is Role.PREFILL:
            del shown.histograms["time_to_first_token_seconds"]
        return web.Response(body=shown.render(), headers={"Content-Type": "text/plain; version=0.0.4"})
