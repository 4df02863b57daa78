"""The command line of sglang-router 0.3.2, flag by flag: what each becomes here.

Source: `router_args.py` in the wheel of sglang-router 0.3.2. A flag is mapped onto a setting, or means
what this proxy does anyway, or is refused with the reason; none is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RouterFlag:
    """One flag of theirs."""

    name: str
    nargs: str | int = 1
    """As argparse takes it; 0 is a switch."""
    settings: tuple[str, ...] = ()
    """The settings it sets, if it is mapped."""
    convert: Callable[[str], str] = str
    """Their value as ours is written."""
    only: tuple[str, ...] | None = None
    """Values that are accepted, for they mean what we do anyway; () where the flag itself does."""
    why: str = ""
    """Mapped or accepted: what to know. Refused: the reason, and what to use instead."""

    @property
    def refused(self) -> bool:
        """Whether no value of it can be honoured."""
        return not self.settings and self.only is None


def _sets(
    name: str, *settings: str, nargs: str | int = 1, convert: Callable[[str], str] = str, why: str = ""
) -> RouterFlag:
    return RouterFlag(name, nargs, settings, convert, why=why)


def _same(name: str, why: str, *only: str, nargs: str | int = 0) -> RouterFlag:
    return RouterFlag(name, 1 if only else nargs, only=only, why=why)


def _refused(why: str, *names: str, nargs: str | int = 1) -> tuple[RouterFlag, ...]:
    return tuple(RouterFlag(name, nargs, why=why) for name in names)


def _ms(value: str) -> str:
    return f"{value}ms"


def _off(_: str) -> str:
    return "false"


_CACHE_AWARE = "it tunes policies that this proxy has not; see --policy for those it has"
_TOKENIZER = "this proxy passes prompts on as they come: the workers tokenize, so leave it out"
_PARSER = "this proxy passes answers on as they come: give it to the workers' sglang.launch_server"
_HISTORY = "this proxy keeps no conversations: leave it out, and put a store in front if one is needed"
_KUBERNETES = "workers are found through etcd (--etcd), where pd-worker registers them on Kubernetes too"
_WORKER_TLS = "workers are spoken to in plain HTTP, within the cluster: leave it out"
_SERVER_TLS = "this proxy speaks plain HTTP: end TLS in front of it (nginx, an ingress)"
_TRACE = "this proxy makes no spans; traceparent and tracestate are passed on to both legs as they come"
_JWT = "the control plane takes one key: --server-admin-key-file, or PD_SERVER_ADMIN_KEY"
_RATE = "there is no token bucket; use --routing-max-in-flight-per-worker and --queue-size"

ROUTER_FLAGS: tuple[RouterFlag, ...] = (
    _sets("--host", "server.host"),
    _sets("--port", "server.port"),
    *_refused("regular (not disaggregated) workers: use --prefill and --decode", "--worker-urls", nargs="*"),
    _sets(
        "--policy",
        "routing.policy",
        why="round_robin, random, power_of_two as theirs; not cache_aware, manual",
    ),
    _sets("--prefill-policy", "routing.prefill_policy", why="as --policy; not bucket"),
    _sets("--decode-policy", "routing.decode_policy", why="as --policy"),
    *_refused(
        _CACHE_AWARE,
        "--cache-threshold",
        "--balance-abs-threshold",
        "--balance-rel-threshold",
        "--bucket-adjust-interval-secs",
        "--eviction-interval-secs",
        "--max-tree-size",
        "--max-idle-secs",
        "--assignment-mode",
    ),
    _sets("--max-payload-size", "limits.body_bytes"),
    *_refused(
        "requests go to servers, not to their data-parallel ranks: leave it out", "--dp-aware", nargs=0
    ),
    _same("--enable-igw", "several models behind one proxy are always served, each from its own pool"),
    _same("--mini-lb", "it picks their Python implementation of this job; this proxy takes its place"),
    _same("--pd-disaggregation", "this proxy does nothing else"),
    _sets(
        "--prefill",
        "static.prefill",
        nargs="+",
        why="URL [BOOTSTRAP_PORT], where none is no port; repeatable",
    ),
    _sets("--decode", "static.decode", why="repeatable"),
    _same(
        "--worker-startup-timeout-secs",
        "this proxy starts at once and takes each worker when its probe succeeds, however late that is",
        nargs=1,
    ),
    _same(
        "--worker-startup-check-interval",
        "a worker that starts is probed like any other: --health-interval-s",
        nargs=1,
    ),
    *_refused("logs go to stdout: redirect them, or leave it to the service manager", "--log-dir"),
    _sets("--log-level", "log.level", why="warn is warning"),
    *_refused(_KUBERNETES, "--service-discovery", nargs=0),
    *_refused(_KUBERNETES, "--service-discovery-port", "--service-discovery-namespace"),
    *_refused(_KUBERNETES, "--selector", "--prefill-selector", "--decode-selector", nargs="+"),
    _sets(
        "--prometheus-port",
        "server.metrics_port",
        why="unset there is none; /metrics is on the main port as well",
    ),
    _sets("--prometheus-host", "server.metrics_host"),
    *_refused(
        "the buckets are fixed: docs/metrics.md lists them", "--prometheus-duration-buckets", nargs="+"
    ),
    _sets("--request-id-headers", "server.request_id_headers", nargs="*"),
    _sets(
        "--request-timeout-secs",
        "upstream.total_s",
        why="for answers that are not streamed; a stream may last",
    ),
    _sets("--shutdown-grace-period-secs", "server.drain_s"),
    *_refused(
        "no CORS headers are made: add them in front (nginx, an ingress)", "--cors-allowed-origins", nargs="*"
    ),
    RouterFlag(
        "--max-concurrent-requests",
        only=("-1",),
        why="-1 (no cap on the whole) is what this proxy does; a cap is one for each worker: "
        "--routing-max-in-flight-per-worker",
    ),
    _sets("--queue-size", "routing.queue_size"),
    _sets("--queue-timeout-secs", "routing.queue_s"),
    *_refused(_RATE, "--rate-limit-tokens-per-second"),
    _sets("--retry-max-retries", "retries.attempts", why="theirs too counts attempts, the first included"),
    _sets("--retry-initial-backoff-ms", "retries.initial_backoff_s", convert=_ms),
    _sets("--retry-max-backoff-ms", "retries.max_backoff_s", convert=_ms),
    *_refused(
        "the wait doubles with each attempt, with full jitter; --retry-max-backoff-ms bounds it",
        "--retry-backoff-multiplier",
        "--retry-jitter-factor",
    ),
    _sets("--disable-retries", "retries.enabled", nargs=0, convert=_off),
    _sets("--cb-failure-threshold", "breaker.failures"),
    _same(
        "--cb-success-threshold", "one request that succeeds closes a breaker, so 1 is the only value", "1"
    ),
    _sets("--cb-timeout-duration-secs", "breaker.open_s"),
    _sets("--cb-window-duration-secs", "breaker.window_s"),
    _sets("--disable-circuit-breaker", "breaker.enabled", nargs=0, convert=_off),
    _sets("--health-failure-threshold", "health.failures"),
    _sets("--health-success-threshold", "health.successes"),
    _sets("--health-check-timeout-secs", "health.timeout_s"),
    _sets("--health-check-interval-secs", "health.interval_s"),
    _sets("--health-check-endpoint", "health.path"),
    *_refused(
        "a worker gets requests because its probe succeeds; to probe seldom, --health-interval-s",
        "--disable-health-check",
        nargs=0,
    ),
    *_refused(_TOKENIZER, "--model-path", "--tokenizer-path", "--chat-template"),
    *_refused(_TOKENIZER, "--tokenizer-cache-enable-l0", "--tokenizer-cache-enable-l1", nargs=0),
    *_refused(_TOKENIZER, "--tokenizer-cache-l0-max-entries", "--tokenizer-cache-l1-max-memory"),
    *_refused(_PARSER, "--reasoning-parser", "--tool-call-parser"),
    *_refused("this proxy calls no tools: leave it out", "--mcp-config-path"),
    _same("--backend", "sglang is the only backend", "sglang"),
    _same("--history-backend", "this proxy keeps no conversations, so none is the only value", "none"),
    *_refused(
        _HISTORY,
        "--oracle-wallet-path",
        "--oracle-tns-alias",
        "--oracle-connect-descriptor",
        "--oracle-username",
        "--oracle-password",
        "--oracle-pool-min",
        "--oracle-pool-max",
        "--oracle-pool-timeout-secs",
        "--postgres-db-url",
        "--postgres-pool-max",
        "--redis-url",
        "--redis-pool-max",
        "--redis-retention-days",
    ),
    *_refused(_WORKER_TLS, "--client-cert-path", "--client-key-path"),
    *_refused(_WORKER_TLS, "--ca-cert-paths", nargs="*"),
    *_refused(_SERVER_TLS, "--tls-cert-path", "--tls-key-path"),
    *_refused(_TRACE, "--enable-trace", nargs=0),
    *_refused(_TRACE, "--otlp-traces-endpoint"),
    _sets(
        "--api-key",
        "server.api_key",
        "upstream.api_key",
        why="clients must send it, and workers are sent it; visible to all on the host, so rather "
        "PD_SERVER_API_KEY and PD_UPSTREAM_API_KEY",
    ),
    *_refused(_JWT, "--control-plane-api-keys", "--jwt-role-mapping", nargs="*"),
    *_refused("changes are in the ordinary log; leave it out", "--control-plane-audit-enabled", nargs=0),
    *_refused(_JWT, "--jwt-issuer", "--jwt-audience", "--jwt-jwks-uri"),
)
