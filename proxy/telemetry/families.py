"""Every metric of the proxy, in one list. docs/metrics.md is made from it; a test holds them together."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# why: from one token of a small model to the queue of a full fleet.
TTFT_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
# why: decoding runs at 5 to 100 ms a token; the rest shows stalls.
ITL_S = (0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 5, 30)
DURATION_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
BODY_BYTES = (256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864, 268435456)
LAG_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1)


class Kind(StrEnum):
    """Prometheus' types."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric, as it is scraped."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    from_callable: bool = False
    """A gauge whose value `Metrics.gauge_from` asks for at each scrape."""


def _read(name: str, text: str, *labels: str) -> Family:
    return Family(name, Kind.GAUGE, labels, text, from_callable=True)


FAMILIES: tuple[Family, ...] = (
    Family("pd_requests_total", Kind.COUNTER, ("route", "status", "outcome"), "Requests that ended."),
    Family("pd_requests_in_flight", Kind.GAUGE, ("route",), "Requests admitted and not yet ended."),
    Family(
        "pd_time_to_first_token_seconds",
        Kind.HISTOGRAM,
        ("route",),
        "From the whole request read to the first token sent, queue and retries included; streams only.",
    ),
    Family("pd_inter_token_seconds", Kind.HISTOGRAM, ("route",), "Between two reads of a stream's tokens."),
    Family("pd_request_duration_seconds", Kind.HISTOGRAM, ("route",), "From the request's head to its end."),
    Family("pd_request_body_bytes", Kind.HISTOGRAM, ("route",), "Sizes of request bodies."),
    Family(
        "pd_attempts_total", Kind.COUNTER, (), "Attempts dispatched to a pair, the first of each included."
    ),
    Family(
        "pd_retries_total", Kind.COUNTER, ("reason",), "Attempts made again, by what ended the one before."
    ),
    Family(
        "pd_continuations_total",
        Kind.COUNTER,
        ("kind",),
        "Streams that broke after their first token, by what became of them: exact, approximate or refused.",
    ),
    Family(
        "pd_retries_refused_total",
        Kind.COUNTER,
        (),
        "Retries that were not made, for the retry budget was spent; their clients saw the failure.",
    ),
    _read("pd_retry_budget_left", "Retries that the budget would allow now."),
    Family(
        "pd_aborts_total",
        Kind.COUNTER,
        ("result",),
        "Workers told to abort: sent, failed (no answer in time), dropped (the queue was full).",
    ),
    Family(
        "pd_request_loss_ratio",
        Kind.GAUGE,
        (),
        "Share of all requests so far that were lost: ended otherwise than ok, client_gone, bad_request or "
        "aborted.",
    ),
    _read("pd_queue_depth", "Requests that wait for a worker."),
    Family("pd_queue_wait_seconds", Kind.HISTOGRAM, (), "How long requests waited for a worker."),
    _read("pd_legs_in_flight", "Legs running on a worker.", "worker", "role"),
    Family(
        "pd_leg_duration_seconds", Kind.HISTOGRAM, ("worker", "role"), "From a leg's dispatch to its end."
    ),
    Family("pd_legs_total", Kind.COUNTER, ("worker", "role", "outcome"), "Legs that ended."),
    Family(
        "pd_kv_transfer_seconds",
        Kind.HISTOGRAM,
        ("worker",),
        "From dispatch to the prefill leg's end, which is when its KV cache has reached the decode.",
    ),
    Family("pd_upstream_connects_total", Kind.COUNTER, ("worker", "role"), "Connections opened to a worker."),
    Family(
        "pd_upstream_connect_failures_total", Kind.COUNTER, ("worker", "role"), "Connections that failed."
    ),
    _read("pd_upstream_connections", "Connections open to workers.", "state"),
    _read("pd_client_connections", "Connections open from clients."),
    _read("pd_held_bytes", "Bytes held for requests and answers together."),
    _read("pd_workers", "Workers known, by what they are.", "role", "state", "healthy"),
    _read("pd_workers_benched", "Workers benched now for failing requests, by their breakers."),
    _read("pd_edges_open", "Prefill -> decode edges benched now."),
    _read("pd_registry_age_seconds", "Since the registry was last known to be up to date."),
    _read("pd_registry_workers", "Workers in the registry."),
    _read("pd_registry_connected", "1 while the registry's watch stands."),
    _read("pd_draining", "1 once the process has been told to end."),
    _read("pd_build_info", "Always 1; the version is a label.", "version"),
    Family(
        "pd_event_loop_lag_seconds",
        Kind.HISTOGRAM,
        (),
        "How late the event loop came back, asked four times a second.",
    ),
)


def markdown() -> str:
    """docs/metrics.md."""
    rows = [
        f"| `{family.name}` | {family.kind} | {', '.join(family.labels)} | {family.help} |"
        for family in FAMILIES
    ]
    bounds = [
        f"| {what} | {', '.join(f'{bound:g}' if bound < 1e3 else str(bound) for bound in values)} |"
        for what, values in _BOUNDS.items()
    ]
    return _PAGE.format(families="\n".join(rows), bounds="\n".join(bounds))


_BOUNDS: dict[str, tuple[float, ...]] = {
    "time to first token, queue wait, KV transfer (s)": TTFT_S,
    "between tokens (s)": ITL_S,
    "request and leg duration (s)": DURATION_S,
    "request bodies (bytes)": BODY_BYTES,
    "event-loop lag (s)": LAG_S,
}

_PAGE = """\
# Metrics

<!-- Generated from proxy/telemetry/families.py: `python -m proxy.telemetry.families > docs/metrics.md`. -->

`/metrics` on the main port, and on a port of its own with `--server-metrics-port`; in Prometheus' text
format, or OpenMetrics when asked for. Label sets are bounded: `route` is one of `generate`,
`chat_completions`, `completions`; `worker` a worker that is known now (its figures go when it goes; beyond
10,000 workers the rest share the label `other`); no label holds anything that a client sends.

| name | type | labels | what |
|---|---|---|---|
{families}

Beside these come `process_*`, `python_info` and `python_gc_*`, of prometheus_client.

## Bounds of the histograms

| of | upper bounds |
|---|---|
{bounds}
"""

if __name__ == "__main__":
    print(markdown(), end="")
