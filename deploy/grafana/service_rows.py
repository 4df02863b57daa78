"""What clients feel: requests, latency, and the failures that were masked."""

from __future__ import annotations

from deploy.grafana.panels import Panel, Row, q, quantiles, rate

_LOST = 'max(job:pd_requests_lost:ratio5m{job=~"$job"})'

NOW = Row(
    "Now",
    (
        Panel(
            "Lost requests",
            "Share of the last 5 minutes that ended otherwise than ok or by the client's own doing.",
            "percentunit",
            (q(_LOST),),
            "stat",
            limit=0.001,
        ),
        Panel(
            "Requests",
            "Requests that ended, a second.",
            "reqps",
            (q('sum(job:pd_requests:rate5m{job=~"$job"})'),),
            "stat",
        ),
        Panel(
            "In flight",
            "Admitted and not yet ended, at all proxies.",
            "short",
            (q('sum(pd_requests_in_flight{job=~"$job"})'),),
            "stat",
        ),
        Panel(
            "Slow first tokens",
            "Share of the last 5 minutes over 5 s; the objective is 1 %.",
            "percentunit",
            (q('max(job:pd_ttft_slow:ratio5m{job=~"$job"})'),),
            "stat",
            limit=0.01,
        ),
        Panel(
            "Slow gaps between tokens",
            "Share of the last 5 minutes over 0.1 s; the objective is 1 %.",
            "percentunit",
            (q('max(job:pd_itl_slow:ratio5m{job=~"$job"})'),),
            "stat",
            limit=0.01,
        ),
        Panel(
            "Alerts that fire",
            "docs/runbook.md has a section for each.",
            "short",
            (q('count(ALERTS{alertname=~"Pd.+", alertstate="firing"}) or vector(0)'),),
            "stat",
            limit=1,
        ),
    ),
)

REQUESTS = Row(
    "Requests",
    (
        Panel(
            "By outcome",
            "Anything but ok, client_gone, bad_request and aborted is a loss. docs/errors.md tells them all.",
            "reqps",
            (q(rate("pd_requests_total", "outcome"), "{{outcome}}"),),
            stacked=True,
        ),
        Panel(
            "In flight, and waiting",
            "A queue that stays means that every worker is at its cap.",
            "short",
            (
                q('sum by (route) (pd_requests_in_flight{job=~"$job"})', "{{route}}"),
                q('sum(pd_queue_depth{job=~"$job"})', "waiting for a worker"),
            ),
        ),
        Panel("Wait for a worker", "Of requests that had to wait.", "s", quantiles("pd_queue_wait_seconds")),
    ),
)

LATENCY = Row(
    "What clients wait for",
    (
        Panel(
            "First token",
            "Streams only, queue and retries included.",
            "s",
            quantiles("pd_time_to_first_token_seconds"),
            limit=5,
        ),
        Panel(
            "Between tokens",
            "Between two reads of a stream's tokens.",
            "s",
            quantiles("pd_inter_token_seconds"),
            limit=0.1,
        ),
        Panel("Whole requests", "From head to end.", "s", quantiles("pd_request_duration_seconds")),
        Panel(
            "Size of requests",
            "Longer prompts make later first tokens.",
            "bytes",
            quantiles("pd_request_body_bytes"),
        ),
    ),
)

MASKED = Row(
    "Failures that clients did not see",
    (
        Panel(
            "Retries",
            "Attempts made again, by what ended the one before; and those that the budget refused.",
            "reqps",
            (
                q(rate("pd_retries_total", "reason"), "{{reason}}"),
                q(rate("pd_retries_refused_total", "job"), "refused"),
            ),
            stacked=True,
        ),
        Panel(
            "Retry budget",
            "Retries that would be allowed now, at the proxy that has the fewest. At 0 clients see failures.",
            "short",
            (q('min(pd_retry_budget_left{job=~"$job"})', "left"),),
        ),
        Panel(
            "Broken streams",
            "By what became of them; refused ones ended with an error event.",
            "reqps",
            (q(rate("pd_continuations_total", "kind"), "{{kind}}"),),
        ),
        Panel(
            "Aborts",
            "Workers told to end a leg; failed and dropped ones run on for a while.",
            "reqps",
            (q(rate("pd_aborts_total", "result"), "{{result}}"),),
        ),
    ),
)
