"""What the machines do: workers, engines, proxies."""

from __future__ import annotations

from deploy.grafana.panels import Panel, Row, q, quantiles, rate

WORKERS = Row(
    "Workers, as the proxies see them",
    (
        Panel(
            "Healthy",
            "By role, at the proxy that sees the fewest.",
            "short",
            (
                q(
                    'min by (role) (sum by (role, instance) (pd_workers{job=~"$job", healthy="true"}))',
                    "{{role}}",
                ),
            ),
        ),
        Panel(
            "Not in service",
            "By role and state; ready and here: its probe fails.",
            "short",
            (
                q(
                    'max by (role, state) (pd_workers{job=~"$job", healthy="false"})',
                    "{{role}}, {{state}}",
                ),
            ),
            stacked=True,
        ),
        Panel(
            "Benched",
            "Workers that fail requests of themselves; edges whose two workers fail with each other only.",
            "short",
            (
                q('max(pd_workers_benched{job=~"$job"})', "workers"),
                q('max(pd_edges_open{job=~"$job"})', "edges"),
            ),
        ),
        Panel(
            "Legs in flight",
            "One line far from the others of its role: an unequal load, or a worker that hangs.",
            "short",
            (q('sum by (worker, role) (pd_legs_in_flight{job=~"$job"})', "{{role}} {{worker}}"),),
        ),
        Panel(
            "Legs that failed",
            "One worker alone: that worker. All: the network, or the proxy's view of it.",
            "reqps",
            (
                q(
                    rate("pd_legs_total", "worker, outcome", ', outcome!~"ok|client_gone|bad_request"'),
                    "{{worker}} {{outcome}}",
                ),
            ),
        ),
        Panel(
            "Connections that failed",
            "Nobody listens there, or the network does not let us.",
            "reqps",
            (q(rate("pd_upstream_connect_failures_total", "worker"), "{{worker}}"),),
        ),
        Panel(
            "KV cache there, median by prefill",
            "From dispatch to the arrival of the KV cache, the prefill's own work included.",
            "s",
            (q('job_worker:pd_kv_transfer_seconds:p50_10m{job=~"$job"}', "{{worker}}"),),
        ),
        Panel(
            "Share of requests in prefill",
            "Near 1: prefills are too few. Near 0, and slow tokens: decodes are.",
            "percentunit",
            (q('job:pd_legs_prefilling:ratio{job=~"$job"}', "{{job}}"),),
        ),
    ),
)

ENGINES = Row(
    "Engines, as they tell themselves",
    (
        Panel(
            "Running and waiting",
            "By role; waiting ones queue inside the engines.",
            "short",
            (
                q("sum by (role) (pd_worker_engine_running_requests)", "running, {{role}}"),
                q("sum by (role) (pd_worker_engine_waiting_requests)", "waiting, {{role}}"),
                q("sum by (role) (pd_worker_engine_transferring_requests)", "between the two, {{role}}"),
            ),
        ),
        Panel(
            "KV pool in use",
            "Near 1 a decode throws requests out and does them again.",
            "percentunit",
            (q("pd_worker_engine_token_usage_ratio", "{{worker_id}}"),),
            limit=0.95,
        ),
        Panel(
            "Tokens a second",
            "Of each engine.",
            "short",
            (q("pd_worker_engine_generated_tokens_per_second", "{{worker_id}}"),),
        ),
        Panel(
            "KV transfer",
            "Time of the last transfers, of the slowest rank.",
            "s",
            (q("pd_worker_engine_kv_transfer_latency_seconds", "{{worker_id}}"),),
        ),
        Panel(
            "KV transfer, speed (GB/s)",
            "About 1 where others have tens: TCP instead of RDMA.",
            "short",
            (q("pd_worker_engine_kv_transfer_gigabytes_per_second", "{{worker_id}}"),),
        ),
        Panel(
            "Crashes",
            "Engines that ended unasked, in a quarter of an hour.",
            "short",
            (q("increase(pd_worker_crashes_total[15m]) > 0", "{{worker_id}}"),),
        ),
    ),
)

PROXIES = Row(
    "Proxies",
    (
        Panel(
            "CPU",
            "A proxy has one core: near 1 it is the bottleneck.",
            "short",
            (q(rate("process_cpu_seconds_total", "instance"), "{{instance}}"),),
            limit=0.8,
        ),
        Panel(
            "Event loop, late by",
            "Every stream waits so long.",
            "s",
            quantiles("pd_event_loop_lag_seconds"),
            limit=0.05,
        ),
        Panel(
            "Memory",
            "Resident, and what is held for requests and answers.",
            "bytes",
            (
                q('process_resident_memory_bytes{job=~"$job"}', "{{instance}}"),
                q('pd_held_bytes{job=~"$job"}', "held, {{instance}}"),
            ),
        ),
        Panel(
            "Connections",
            "From clients, and to workers.",
            "short",
            (
                q('sum(pd_client_connections{job=~"$job"})', "clients"),
                q('sum by (state) (pd_upstream_connections{job=~"$job"})', "workers, {{state}}"),
            ),
        ),
        Panel(
            "Silence of the registry",
            "Since etcd was last known to be up to date.",
            "s",
            (q('pd_registry_age_seconds{job=~"$job"}', "{{instance}}"),),
            limit=60,
        ),
        Panel(
            "Versions",
            "How many proxies run which.",
            "short",
            (q('count by (version) (pd_build_info{job=~"$job"})', "{{version}}"),),
        ),
    ),
)
