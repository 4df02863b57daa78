"""The command line of sglang-router 0.3.2: every flag of it is mapped, accepted for a reason, or refused."""

from __future__ import annotations

import pytest

from proxy.errors import SettingsError
from proxy.router_flags import ROUTER_FLAGS, RouterFlag
from proxy.settings import Settings
from proxy.settings_catalogue import LEAVES
from proxy.settings_flags import read
from proxy.settings_loading import load

COMMAND_LINE = """
--pd-disaggregation --prefill http://p0:30000 8998 --prefill http://p1:30000 none --prefill
http://p2:1 --decode http://d0:30000 --decode http://d1:30000 --policy round_robin --decode-policy
random --host 127.0.0.1 --port 8000 --prometheus-port 29000 --prometheus-host ::1 --log-level warn
--max-payload-size 1048576 --request-timeout-secs 60 --queue-size 7 --queue-timeout-secs 8
--retry-max-retries 3 --retry-initial-backoff-ms 20 --retry-max-backoff-ms 500
--cb-failure-threshold 9 --cb-timeout-duration-secs 11 --health-check-interval-secs 12
--health-failure-threshold 4 --health-success-threshold 2 --health-check-timeout-secs 1
--health-check-endpoint /health --request-id-headers x-a X-B --max-concurrent-requests -1
--shutdown-grace-period-secs 5 --worker-startup-timeout-secs 9 --disable-circuit-breaker
--disable-retries --api-key k
"""

THEIRS = dict(
    line.split()
    for line in """\
--host None
--port None
--worker-urls *
--policy None
--prefill-policy None
--decode-policy None
--cache-threshold None
--balance-abs-threshold None
--balance-rel-threshold None
--bucket-adjust-interval-secs None
--eviction-interval-secs None
--max-tree-size None
--max-idle-secs None
--assignment-mode None
--max-payload-size None
--dp-aware 0
--enable-igw 0
--mini-lb 0
--pd-disaggregation 0
--prefill +
--decode 1
--worker-startup-timeout-secs None
--worker-startup-check-interval None
--log-dir None
--log-level None
--service-discovery 0
--selector +
--service-discovery-port None
--service-discovery-namespace None
--prefill-selector +
--decode-selector +
--prometheus-port None
--prometheus-host None
--prometheus-duration-buckets +
--request-id-headers *
--request-timeout-secs None
--shutdown-grace-period-secs None
--cors-allowed-origins *
--max-concurrent-requests None
--queue-size None
--queue-timeout-secs None
--rate-limit-tokens-per-second None
--retry-max-retries None
--retry-initial-backoff-ms None
--retry-max-backoff-ms None
--retry-backoff-multiplier None
--retry-jitter-factor None
--disable-retries 0
--cb-failure-threshold None
--cb-success-threshold None
--cb-timeout-duration-secs None
--cb-window-duration-secs None
--disable-circuit-breaker 0
--health-failure-threshold None
--health-success-threshold None
--health-check-timeout-secs None
--health-check-interval-secs None
--health-check-endpoint None
--disable-health-check 0
--model-path None
--tokenizer-path None
--chat-template None
--tokenizer-cache-enable-l0 0
--tokenizer-cache-l0-max-entries None
--tokenizer-cache-enable-l1 0
--tokenizer-cache-l1-max-memory None
--reasoning-parser None
--tool-call-parser None
--mcp-config-path None
--backend None
--history-backend None
--oracle-wallet-path None
--oracle-tns-alias None
--oracle-connect-descriptor None
--oracle-username None
--oracle-password None
--oracle-pool-min None
--oracle-pool-max None
--oracle-pool-timeout-secs None
--postgres-db-url None
--postgres-pool-max None
--redis-url None
--redis-pool-max None
--redis-retention-days None
--client-cert-path None
--client-key-path None
--ca-cert-paths *
--tls-cert-path None
--tls-key-path None
--enable-trace 0
--otlp-traces-endpoint None
--api-key None
--control-plane-api-keys *
--control-plane-audit-enabled 0
--jwt-issuer None
--jwt-audience None
--jwt-jwks-uri None
--jwt-role-mapping *
""".splitlines()
)
"""Name and nargs, read off the parser that RouterArgs.add_cli_args of 0.3.2 builds."""


def settings(*argv: str) -> Settings:
    return load(read(argv), {}).settings


def test_the_table_holds_each_of_their_flags_once_and_takes_as_many_words() -> None:
    ours = {flag.name: str(flag.nargs) for flag in ROUTER_FLAGS}
    assert len(ours) == len(ROUTER_FLAGS)
    assert ours == {name: nargs.replace("None", "1") for name, nargs in THEIRS.items()}


@pytest.mark.parametrize("flag", [flag for flag in ROUTER_FLAGS if flag.refused], ids=lambda flag: flag.name)
def test_a_flag_that_cannot_be_honoured_is_refused_by_name_and_reason(flag: RouterFlag) -> None:
    name, nargs, why = flag.name, flag.nargs, flag.why
    with pytest.raises(SettingsError) as caught:
        read([name] if nargs == 0 else [name, "1"])
    assert name in caught.value.message
    assert why
    assert why in caught.value.message


def test_mapped_flags_name_settings_that_exist() -> None:
    assert {dotted for flag in ROUTER_FLAGS for dotted in flag.settings} <= LEAVES.keys()


def test_no_accepted_flag_is_silent() -> None:
    for flag in ROUTER_FLAGS:
        if flag.only is not None:
            words = [flag.name] if flag.nargs == 0 else [flag.name, flag.only[0] if flag.only else "1"]
            assert [notice for notice in read(words).notices if flag.name in notice]


@pytest.mark.parametrize("words", [["--max-concurrent-requests", "64"], ["--backend", "openai"]])
def test_a_value_that_means_something_else_is_refused(words: list[str]) -> None:
    with pytest.raises(SettingsError, match=words[0]):
        read(words)


@pytest.mark.parametrize("policy", ["cache_aware", "manual", "bucket"])
def test_a_policy_of_theirs_that_we_lack_is_refused_with_ours(policy: str) -> None:
    with pytest.raises(SettingsError, match="round_robin, random, least_loaded, power_of_two"):
        settings("--prefill-policy", policy)


def test_their_command_line_is_understood() -> None:
    got = settings(*COMMAND_LINE.split())
    assert got.static.prefill == (("http://p0:30000", 8998), ("http://p1:30000", None), ("http://p2:1", None))
    assert got.static.decode == ("http://d0:30000", "http://d1:30000")
    assert (got.routing.policy, got.routing.decode_policy) == ("round_robin", "random")
    assert (got.server.host, got.server.port, got.server.drain_s) == ("127.0.0.1", 8000, 5)
    assert (got.server.metrics_host, got.server.metrics_port) == ("::1", 29000)
    assert (got.log.level, got.limits.body_bytes, got.upstream.total_s) == ("warning", 2**20, 60)
    assert (got.routing.queue_size, got.routing.queue_s) == (7, 8)
    assert (got.retries.attempts, got.retries.enabled) == (3, False)
    assert (got.retries.initial_backoff_s, got.retries.max_backoff_s) == (0.02, 0.5)
    assert (got.breaker.failures, got.breaker.open_s, got.breaker.enabled) == (9, 11, False)
    assert (got.health.interval_s, got.health.failures, got.health.successes) == (12, 4, 2)
    assert (got.health.timeout_s, got.health.path) == (1, "/health")
    assert got.server.request_id_headers == ("x-a", "x-b")
    assert got.server.api_key == got.upstream.api_key
    assert got.server.api_key is not None
