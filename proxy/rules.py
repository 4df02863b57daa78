"""Settings to rules: what each part of the house is told of them."""

from __future__ import annotations

from pydantic import SecretStr

from proxy.discovery.etcd import EtcdRules
from proxy.edge.door import DoorRules
from proxy.edge.head import HeadRules
from proxy.flow.admission import AdmissionRules
from proxy.flow.budget import BudgetRules
from proxy.flow.carriage import CarriageRules
from proxy.flow.continuation.telling import Mode
from proxy.flow.continuation.tokenizer_file import named
from proxy.flow.deaths import DeathRules
from proxy.flow.retrier import RetrierRules
from proxy.flow.retry import RetryRules
from proxy.routing.breaker import BreakerRules
from proxy.routing.group import PoolRules
from proxy.routing.lineup import PairingRules
from proxy.settings import Settings
from proxy.upstream.aborter import AborterRules
from proxy.upstream.carriers import CarrierRules
from proxy.upstream.exchange_rules import ExchangeRules
from proxy.upstream.outcome import Outcome
from proxy.upstream.probes import ProbeRules


def revealed(secret: SecretStr | None) -> str | None:
    """A secret as it is, for those who must send or compare it."""
    return None if secret is None else secret.get_secret_value()


def door(settings: Settings) -> DoorRules:
    """What clients may do."""
    limits, server = settings.limits, settings.server
    worker_key, client_key = revealed(settings.upstream.api_key), revealed(server.api_key)
    return DoorRules(
        head=HeadRules(
            head_bytes=limits.head_bytes,
            head_count=limits.head_count,
            model_header=settings.routing.model_header.lower().encode(),
            request_id_headers=tuple(name.lower().encode() for name in server.request_id_headers),
            longest_wait_s=settings.upstream.longest_wait_s,
            worker_authorization=None if worker_key is None else b"Bearer " + worker_key.encode(),
        ),
        body_bytes=limits.body_bytes,
        head_s=limits.head_s,
        body_s=limits.body_s,
        body_total_s=limits.body_total_s,
        keep_alive_s=limits.keep_alive_s,
        client_stall_s=limits.client_stall_s,
        largest_n=limits.fan_out,
        max_connections=server.max_connections,
        api_key=None if client_key is None else client_key.encode(),
    )


def pool(settings: Settings) -> PoolRules:
    """How pairs are made."""
    routing, breaker = settings.routing, settings.breaker
    return PoolRules(
        prefill_policy=routing.prefill_policy or routing.policy,
        decode_policy=routing.decode_policy or routing.policy,
        default_model=routing.default_model,
        max_in_flight_per_worker=routing.max_in_flight_per_worker,
        slow_start_s=routing.slow_start_s,
        pairing=PairingRules(
            require_equal_tp=routing.require_equal_tp,
            compatible_versions=frozenset(frozenset(pair) for pair in routing.compatible_versions),
        ),
        breaker=BreakerRules(
            enabled=breaker.enabled,
            failures=breaker.failures,
            open_s=breaker.open_s,
            edge_open_s=breaker.edge_open_s,
            edge_open_max_s=breaker.edge_open_max_s,
            window_s=breaker.window_s,
            least_requests=breaker.least_requests,
        ),
    )


def admission(settings: Settings) -> AdmissionRules:
    """Who waits, and for how long."""
    return AdmissionRules(queue_size=settings.routing.queue_size, queue_s=settings.routing.queue_s)


def carriers(settings: Settings) -> CarrierRules:
    """Connections to workers."""
    upstream = settings.upstream
    return CarrierRules(
        connect_s=upstream.connect_s,
        idle_reuse_s=upstream.idle_reuse_s,
        max_idle_per_worker=upstream.max_idle_per_worker,
    )


def aborter(settings: Settings) -> AborterRules:
    """How fast workers are told to abort."""
    return AborterRules(per_s=settings.upstream.aborts_per_s)


def carriage(settings: Settings) -> CarriageRules:
    """Attempts and their deadlines."""
    upstream, retries = settings.upstream, settings.retries
    return CarriageRules(
        retrier=RetrierRules(
            retry=RetryRules(
                attempts=retries.attempts if retries.enabled else 1,
                initial_backoff_s=retries.initial_backoff_s,
                max_backoff_s=retries.max_backoff_s,
                never=frozenset(Outcome(name) for name in retries.never),
            ),
            budget=BudgetRules(ratio=retries.budget_ratio, floor_per_s=retries.budget_floor_per_s),
            deaths=DeathRules(redispatch_per_s=retries.redispatch_per_s),
            longest_retry_after_s=retries.longest_retry_after_s,
        ),
        exchange=ExchangeRules(
            first_token_s=upstream.first_token_s,
            first_token_after_prefill_s=upstream.first_token_after_prefill_s,
            stuck_s=upstream.stuck_s,
            between_chunks_s=upstream.between_chunks_s,
            total_s=upstream.total_s,
            drain_prefill_s=upstream.drain_prefill_s,
            answer_bytes=settings.limits.answer_bytes,
        ),
        logprobs_wait_s=upstream.logprobs_wait_s,
        deaths=retries.deaths,
        continuation=Mode(retries.continuation),
        tokenizers=tuple(named(value) for value in retries.tokenizer),
    )


def probes(settings: Settings) -> ProbeRules:
    """Health probes."""
    health = settings.health
    return ProbeRules(
        interval_s=health.interval_s,
        timeout_s=health.timeout_s,
        failures=health.failures,
        successes=health.successes,
        path=health.path,
    )


def etcd(settings: Settings) -> EtcdRules:
    """Where etcd is. Only where `discovery.etcd_endpoints` names it."""
    discovery = settings.discovery
    return EtcdRules(
        endpoints=tuple(str(endpoint) for endpoint in discovery.etcd_endpoints),
        user=discovery.user,
        password=revealed(discovery.password),
        cafile=None if discovery.ca_file is None else str(discovery.ca_file),
        certfile=None if discovery.cert_file is None else str(discovery.cert_file),
        keyfile=None if discovery.key_file is None else str(discovery.key_file),
    )
