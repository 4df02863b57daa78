"""`meta_info` and the events of /generate, key by key in the order a real pair sends them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from proxy.roster import Role
from workers.engine.config import EngineConfig
from workers.engine.jobs import Job

encode = msgspec.json.Encoder().encode
_QUEUE_FULL = 503


@dataclass(slots=True)
class Seen:
    """How much of a job's answer has been sent, for disjoint streams."""

    ids: int = 0
    text: int = 0
    sent_at: float | None = None


def meta_info(job: Job, config: EngineConfig, seen: Seen, now: float, first: int = 0) -> dict[str, Any]:
    """As the generation and the role have it; `first`: the first output log probability to tell."""
    done = job.finish is not None
    if config.modern and job.failure is not None and job.failure.status == _QUEUE_FULL:
        return _turned_away(job, job.failure.message, now)
    meta: dict[str, Any] = {
        "id": job.rid,
        "finish_reason": job.finish,
        "prompt_tokens": len(job.ids),
        "weight_version": "default",
    }
    if config.modern:
        _before_counts(meta, job, config)
    if job.logprobs is not None:
        _logprobs(meta, job, first, config.modern)
    if config.modern:
        meta["reasoning_tokens"] = 0
    meta["completion_tokens"] = len(job.output_ids)
    meta["cached_tokens"] = job.cached_tokens
    if config.modern:
        _after_counts(meta, job, seen, now, done)
    elif done:
        meta["e2e_latency"] = max(job.finished_at - job.received_at, 0)
    return meta


def _turned_away(job: Job, message: str, now: float) -> dict[str, Any]:
    """Of a request that found the queue full: the scheduler has counted nothing of it."""
    return {
        "id": job.rid,
        "finish_reason": {"type": "abort", "status_code": _QUEUE_FULL, "message": message},
        "weight_version": "default",
        "e2e_latency": max(job.finished_at - job.received_at, 0),
        "weight_versions": [{"version": "default", "start": 0, "end": 0}],
        "completion_tokens": 0,
        "response_sent_to_client_ts": now,
    }


def _before_counts(meta: dict[str, Any], job: Job, config: EngineConfig) -> None:
    meta["num_retractions"] = 0
    ran = job.started_at > 0
    storage = ran and config.role is not Role.DECODE
    if storage:
        meta["storage_prefetch_wait"] = 0.0
        meta["storage_staging_wait"] = 0.0
    if ran:
        meta["forward_entry_time"] = job.started_at
    if storage:
        meta["prefill_finished_time"] = job.prefilled_at
    meta["queue_time"] = max(job.started_at - job.received_at, 0) if ran else 0.0


def _after_counts(meta: dict[str, Any], job: Job, seen: Seen, now: float, done: bool) -> None:
    count = len(job.output_ids)
    if done:
        meta["weight_versions"] = [{"version": "default", "start": 0, "end": count}]
    hit = job.cached_tokens
    meta["cached_tokens_details"] = {"device": hit, "host": 0} if hit else None
    meta["dp_rank"] = job.dp_rank
    if not done:
        if seen.sent_at is None:
            seen.sent_at = now
            meta["response_sent_to_client_ts"] = now
        return
    meta["e2e_latency"] = max(job.finished_at - job.received_at, 0)
    meta["request_received_ts"] = job.received_at
    meta["first_token_latency"] = max((job.first_token_at or job.finished_at) - job.received_at, 0)
    meta["api_server_dispatch_finish_ts"] = job.received_at
    if seen.sent_at is not None:
        meta["response_sent_to_client_ts"] = seen.sent_at
    meta["request_finished_ts"] = job.finished_at
    if count > 1:
        meta["decode_throughput"] = count / max(job.finished_at - job.received_at, 1e-6)
    if seen.sent_at is None:
        meta["response_sent_to_client_ts"] = now


def _logprobs(meta: dict[str, Any], job: Job, first: int, modern: bool) -> None:
    """Decode never sees the prompt's: its input lists are there and empty."""
    assert job.logprobs is not None
    meta["input_token_logprobs"] = job.input_logprobs
    meta["output_token_logprobs"] = job.output_logprobs[first:]
    if modern:
        meta["output_token_logprobs_length"] = len(job.output_logprobs)
    if job.logprobs.top:
        meta["input_top_logprobs"] = job.input_top_logprobs
        meta["output_top_logprobs"] = job.output_top_logprobs[first:]


def answer(job: Job, config: EngineConfig, now: float) -> dict[str, Any]:
    """One whole answer of /generate."""
    return {"text": job.text, "output_ids": job.output_ids, "meta_info": meta_info(job, config, Seen(), now)}


def event(job: Job, config: EngineConfig, seen: Seen, now: float, index: int | None) -> dict[str, Any]:
    """One event of /generate: cumulative, or what is new since the last."""
    if config.incremental_streaming_output:
        text, ids = job.shown[seen.text :], job.output_ids[seen.ids :]
        meta = meta_info(job, config, seen, now, first=seen.ids)
        seen.text, seen.ids = len(job.shown), len(job.output_ids)
    else:
        text, ids, meta = job.shown, job.output_ids, meta_info(job, config, seen, now)
    made: dict[str, Any] = {"text": text, "output_ids": ids, "meta_info": meta}
    if index is not None:
        made["index"] = index
    return made
