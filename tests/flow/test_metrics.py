"""After known traffic the figures are exactly right."""

from __future__ import annotations

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from tests.flow.talk import CHAT, GENERATE, PROMPT, ask, start_fleet
from tests.support.proxies import Proxy, eventually

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scraped(proxy: Proxy) -> Figures:
    """All samples of /metrics."""
    async with proxy.http.get("/metrics") as answer:
        assert answer.status == 200
        text = await answer.text()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def labels(**values: str) -> frozenset[tuple[str, str]]:
    return frozenset(values.items())


async def test_requests_legs_and_times_are_counted_once_each() -> None:
    async with start_fleet(decode_ms_per_token=20) as fleet:
        prefill, decode = fleet.prefills[0].worker.worker_id, fleet.decodes[0].worker.worker_id
        plain = {"text": PROMPT, "sampling_params": {"max_new_tokens": 3}}
        for _ in range(3):
            assert (await ask(fleet.http, GENERATE, plain)).status == 200
        for _ in range(2):
            assert (await ask(fleet.http, GENERATE, {**plain, "stream": True})).status == 200
        chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
        assert (await ask(fleet.http, CHAT, chat)).status == 200
        assert (await ask(fleet.http, GENERATE, {"txt": "no prompt"})).status == 400
        found = await scraped(fleet.proxy)

        def figure(name: str, **values: str) -> float:
            return found[name, labels(**values)]

        assert figure("pd_requests_total", route="generate", status="200", outcome="ok") == 5
        assert figure("pd_requests_total", route="chat_completions", status="200", outcome="ok") == 1
        assert figure("pd_requests_total", route="generate", status="400", outcome="bad_request") == 1
        assert figure("pd_requests_in_flight", route="generate") == 0
        assert figure("pd_time_to_first_token_seconds_count", route="generate") == 2
        gaps = figure("pd_inter_token_seconds_count", route="generate")
        assert gaps >= 2 * 2, "two streams of three tokens"
        assert figure("pd_inter_token_seconds_sum", route="generate") >= 0.06
        assert figure("pd_inter_token_seconds_count", route="chat_completions") == 0
        assert figure("pd_request_duration_seconds_count", route="generate") == 6
        assert figure("pd_attempts_total") == 6
        assert figure("pd_legs_total", worker=prefill, role="prefill", outcome="ok") == 6
        assert figure("pd_legs_total", worker=decode, role="decode", outcome="ok") == 6
        assert figure("pd_leg_duration_seconds_count", worker=decode, role="decode") == 6
        assert figure("pd_kv_transfer_seconds_count", worker=prefill) == 6
        assert figure("pd_legs_in_flight", worker=decode, role="decode") == 0
        assert figure("pd_upstream_connects_total", worker=decode, role="decode") >= 1
        assert figure("pd_workers", role="decode", state="ready", healthy="true") == 1
        assert figure("pd_queue_depth") == 0
        assert figure("pd_held_bytes") == 0


async def test_the_pace_of_each_of_several_answers_is_counted() -> None:
    async with start_fleet(decode_ms_per_token=20) as fleet:
        chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "n": 2, "stream": True}
        assert (await ask(fleet.http, CHAT, chat)).status == 200
        found = await scraped(fleet.proxy)
        assert found["pd_inter_token_seconds_count", labels(route="chat_completions")] >= 2 * 2


async def test_a_queued_requests_wait_is_counted() -> None:
    async with start_fleet(
        settings={"routing": {"max_in_flight_per_worker": 1}}, decode_ms_per_token=5
    ) as fleet:
        body = {"text": PROMPT, "sampling_params": {"max_new_tokens": 10}}
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(ask(fleet.http, GENERATE, body))
        found = await scraped(fleet.proxy)
        assert found["pd_queue_wait_seconds_count", labels()] == 2


async def test_a_request_leaves_one_line_with_all_that_is_known_of_it() -> None:
    async with start_fleet() as fleet:
        body = {"text": PROMPT, "stream": True, "sampling_params": {"max_new_tokens": 3}}
        async with fleet.http.post(GENERATE, json=body, headers={"X-Request-Id": "mine"}) as answer:
            raw = await answer.read()
            assert answer.headers["X-Request-Id"] == "mine"
        (line,) = fleet.proxy.lines
        assert line["request_id"] == "mine"
        assert (line["route"], line["status"], line["outcome"]) == ("generate", 200, "ok")
        assert line["prefill"] == fleet.prefills[0].worker.worker_id
        assert line["decode"] == fleet.decodes[0].worker.worker_id
        assert line["attempts"] == 1
        assert len(line["rids"]) == 1
        assert line["stream"] is True
        assert 0 <= line["queue_ms"] <= line["ttft_ms"] <= line["duration_ms"]
        assert line["bytes_out"] >= len(raw)


async def test_what_is_noted_down_is_counted_without_a_scrape() -> None:
    async with start_fleet() as fleet:
        assert (await ask(fleet.http, GENERATE, {"text": PROMPT})).status == 200
        duration = fleet.proxy.service.metrics.route("generate").duration
        await eventually(lambda: not duration._noted)
        assert duration.count == 1
