"""Real SGLang, Mooncake and etcd, pd-worker and the proxy: users get what a plain server gives."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from tests.real.fleet import Fleet, RealWorker, start_fleet
from tests.support.workers import in_registry

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

PROMPTS = ["hello world", "The quick brown fox", "a b c d e f g", "prefill and decode servers"]
GREEDY = {"temperature": 0, "max_new_tokens": 24, "ignore_eos": True}
OPENAI = {"model": "tiny", "temperature": 0, "max_tokens": 24, "ignore_eos": True}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with start_fleet(tmp_path_factory.mktemp("real")) as made:
        yield made


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    limits = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(timeout=limits, connector=aiohttp.TCPConnector(limit=0)) as made:
        yield made


@pytest.fixture(autouse=True)
async def whole(fleet: Fleet, http: aiohttp.ClientSession) -> None:
    """Every test begins with a whole fleet."""
    await until_ready(fleet, http, 3)


async def until_ready(fleet: Fleet, http: aiohttp.ClientSession, workers: int) -> None:
    deadline_s = time.monotonic() + 200
    while True:
        async with http.get(fleet.proxy + "/readiness") as answer:
            told = await answer.json()
        if answer.status == 200 and told["healthy_workers"] >= workers:
            return
        assert time.monotonic() < deadline_s, told
        await asyncio.sleep(0.2)


async def ask(http: aiohttp.ClientSession, url: str, path: str, body: dict[str, Any]) -> Any:
    async with http.post(url + path, json=body) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def events(http: aiohttp.ClientSession, url: str, path: str, body: dict[str, Any]) -> list[Any]:
    """All events of a stream, which must end with [DONE]."""
    async with http.post(url + path, json=body | {"stream": True}) as answer:
        assert answer.status == 200, await answer.text()
        found = [line[6:] async for line in answer.content if line.startswith(b"data: ")]
    assert found.pop().strip() == b"[DONE]"
    return [json.loads(one) for one in found]


def told_text(path: str, body: Any) -> str:
    if path == "/generate":
        return str(body["text"])
    choice = body["choices"][0]
    return str(choice["message"]["content"] if path.endswith("/chat/completions") else choice["text"])


def streamed_text(path: str, found: list[Any]) -> str:
    if path == "/generate":
        return str(found[-1]["text"])
    choices = [choice for event in found for choice in event["choices"]]
    if path.endswith("/chat/completions"):
        return "".join(choice["delta"].get("content") or "" for choice in choices)
    return "".join(choice["text"] for choice in choices)


def body_for(path: str, prompt: str) -> dict[str, Any]:
    if path == "/generate":
        return {"text": prompt, "sampling_params": GREEDY}
    if path.endswith("/chat/completions"):
        return {**OPENAI, "messages": [{"role": "user", "content": prompt}]}
    return {**OPENAI, "prompt": prompt}


async def plain_text(fleet: Fleet, http: aiohttp.ClientSession, prompt: str) -> str:
    body = body_for("/generate", prompt)
    return told_text("/generate", await ask(http, fleet.plain.url, "/generate", body))


@pytest.mark.parametrize("path", ["/generate", "/v1/chat/completions", "/v1/completions"])
async def test_texts_are_those_of_a_plain_server(
    path: str, fleet: Fleet, http: aiohttp.ClientSession
) -> None:
    for prompt in PROMPTS:
        body = body_for(path, prompt)
        wanted = told_text(path, await ask(http, fleet.plain.url, path, body))
        assert wanted
        assert told_text(path, await ask(http, fleet.proxy, path, body)) == wanted
        assert streamed_text(path, await events(http, fleet.proxy, path, body)) == wanted


async def test_a_batch_is_answered_in_order(fleet: Fleet, http: aiohttp.ClientSession) -> None:
    body = {"text": PROMPTS, "sampling_params": GREEDY}
    wanted = [one["text"] for one in await ask(http, fleet.plain.url, "/generate", body)]
    assert [one["text"] for one in await ask(http, fleet.proxy, "/generate", body)] == wanted


async def test_logprobs_are_those_of_a_plain_server(fleet: Fleet, http: aiohttp.ClientSession) -> None:
    body = {"text": PROMPTS[0], "sampling_params": GREEDY, "return_logprob": True, "logprob_start_len": 0}
    wanted = (await ask(http, fleet.plain.url, "/generate", body))["meta_info"]
    found = (await ask(http, fleet.proxy, "/generate", body))["meta_info"]
    for name in ("input_token_logprobs", "output_token_logprobs"):
        assert [one[1] for one in found[name]] == [one[1] for one in wanted[name]]
        for ours, theirs in zip(found[name], wanted[name], strict=True):
            assert ours[0] == pytest.approx(theirs[0], abs=0.05)


async def test_two_choices_are_two_answers(fleet: Fleet, http: aiohttp.ClientSession) -> None:
    body = {**OPENAI, "prompt": PROMPTS[1], "n": 2}
    answer = await ask(http, fleet.proxy, "/v1/completions", body)
    single = await ask(http, fleet.plain.url, "/v1/completions", {**body, "n": 1})
    assert [choice["text"] for choice in answer["choices"]] == [single["choices"][0]["text"]] * 2


async def test_64_at_once_are_all_right(fleet: Fleet, http: aiohttp.ClientSession) -> None:
    wanted = [await plain_text(fleet, http, prompt) for prompt in PROMPTS]

    async def one(number: int) -> None:
        found = await events(http, fleet.proxy, "/generate", body_for("/generate", PROMPTS[number % 4]))
        assert streamed_text("/generate", found) == wanted[number % 4]

    async with asyncio.TaskGroup() as tasks:
        for number in range(64):
            tasks.create_task(one(number))


async def busy(http: aiohttp.ClientSession, worker: RealWorker) -> int:
    async with http.get(worker.url + "/v1/loads", params={"include": "core,disagg,queues"}) as answer:
        (rank,) = (await answer.json())["loads"]
    between = rank["disaggregation"]
    queues = sum(count for name, count in between.items() if name.endswith("_queue_reqs"))
    return int(rank["num_running_reqs"] + rank["num_waiting_reqs"] + queues)


async def test_a_client_that_leaves_frees_the_engines_within_three_seconds(
    fleet: Fleet, http: aiohttp.ClientSession
) -> None:
    body = {"text": PROMPTS[0], "sampling_params": GREEDY | {"max_new_tokens": 1500}, "stream": True}
    async with http.post(fleet.proxy + "/generate", json=body) as answer:
        await answer.content.readline()
        assert sum([await busy(http, decode) for decode in fleet.decodes]) >= 1
    left_at_s = time.monotonic()
    while sum([await busy(http, worker) for worker in (fleet.prefill, *fleet.decodes)]):
        assert time.monotonic() - left_at_s < 3
        await asyncio.sleep(0.1)


async def test_a_stream_whose_decode_is_killed_goes_on_elsewhere(
    fleet: Fleet, http: aiohttp.ClientSession
) -> None:
    body = {"text": PROMPTS[2], "sampling_params": GREEDY | {"max_new_tokens": 400}}
    # Compared with a stream: SGLang itself tells broken UTF-8 otherwise in a stream than in a whole answer.
    wanted = (await events(http, fleet.plain.url, "/generate", body))[-1]["text"]
    found: list[Any] = []
    async with http.post(fleet.proxy + "/generate", json=body | {"stream": True}) as answer:
        async for line in answer.content:
            if line.startswith(b"data: {"):
                found.append(json.loads(line[6:]))
                if len(found) == 5:
                    (victim,) = [decode for decode in fleet.decodes if await busy(http, decode)]
                    lives = victim.said().count("engine: launched")
                    victim.kill_engine()
    assert found[-1]["text"] == wanted
    await asyncio.to_thread(victim.wait_ready, lives + 1)


async def test_a_worker_that_is_told_to_leave_under_load_costs_no_request(
    fleet: Fleet, http: aiohttp.ClientSession
) -> None:
    wanted = await plain_text(fleet, http, PROMPTS[0])
    leaving = fleet.decodes.pop()
    over = asyncio.Event()
    served = 0

    async def client() -> None:
        nonlocal served
        while not over.is_set():
            found = await events(http, fleet.proxy, "/generate", body_for("/generate", PROMPTS[0]))
            assert streamed_text("/generate", found) == wanted
            served += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(6):
            tasks.create_task(client())
        await asyncio.sleep(2)
        assert await asyncio.to_thread(leaving.terminate) == 0
        after = served
        while served < after + 12:
            await asyncio.sleep(0.1)
        over.set()
    assert "drain: idle" in leaving.said()
    assert leaving.url not in [worker.url for worker in in_registry(fleet.etcd)]
    fresh = fleet.worker("decode")
    await asyncio.to_thread(fresh.wait_ready)
    fleet.decodes.append(fresh)
