"""Real SGLang, Mooncake and etcd, pd-worker and the proxy: users get what a plain server gives."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from tests.real.asking import (
    CHAT,
    GREEDY,
    OPENAI,
    PROMPTS,
    ask,
    body_for,
    choice_texts,
    events,
    plain_text,
    streamed_text,
    told_text,
)
from tests.real.fleet import Fleet

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.mark.parametrize("path", ["/generate", CHAT, "/v1/completions"])
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


async def test_a_streamed_batch_tells_every_text(fleet: Fleet, http: aiohttp.ClientSession) -> None:
    body = {"text": PROMPTS, "sampling_params": GREEDY}
    wanted = [one["text"] for one in await ask(http, fleet.plain.url, "/generate", body)]
    found = await events(http, fleet.proxy, "/generate", body)
    assert [streamed_text("/generate", found, index) for index in range(len(PROMPTS))] == wanted


async def test_a_list_of_prompts_is_completed_in_order(fleet: Fleet, http: aiohttp.ClientSession) -> None:
    body = {**OPENAI, "prompt": PROMPTS}
    wanted = choice_texts("/v1/completions", await ask(http, fleet.plain.url, "/v1/completions", body))
    found = choice_texts("/v1/completions", await ask(http, fleet.proxy, "/v1/completions", body))
    assert found == wanted
    assert len(found) == len(PROMPTS)


@pytest.mark.parametrize("streamed", [False, True])
async def test_log_probabilities_are_those_of_a_plain_server(
    streamed: bool, fleet: Fleet, http: aiohttp.ClientSession
) -> None:
    wish = {"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2}
    body = {"text": PROMPTS[0], "sampling_params": GREEDY, **wish}
    wanted = (await ask(http, fleet.plain.url, "/generate", body))["meta_info"]
    if streamed:
        found = (await events(http, fleet.proxy, "/generate", body))[-1]["meta_info"]
    else:
        found = (await ask(http, fleet.proxy, "/generate", body))["meta_info"]
    assert found["output_token_logprobs_length"] == wanted["output_token_logprobs_length"]
    for name in ("input_token_logprobs", "output_token_logprobs"):
        assert_same_logprobs(found[name], wanted[name])
    for name in ("input_top_logprobs", "output_top_logprobs"):
        for ours, theirs in zip(found[name], wanted[name], strict=True):
            assert_same_logprobs(ours or [], theirs or [])


def assert_same_logprobs(found: list[Any], wanted: list[Any]) -> None:
    assert [one[1] for one in found] == [one[1] for one in wanted]
    assert [one[0] for one in found] == [
        one[0] if one[0] is None else pytest.approx(one[0], abs=0.001) for one in wanted
    ]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
async def test_each_of_several_choices_is_an_answer_of_its_own(
    path: str, streamed: bool, fleet: Fleet, http: aiohttp.ClientSession
) -> None:
    body = body_for(path, PROMPTS[1])
    wanted = told_text(path, await ask(http, fleet.plain.url, path, body))
    if streamed:
        told = await events(http, fleet.proxy, path, {**body, "n": 3})
        found = [streamed_text(path, told, index) for index in range(3)]
    else:
        found = choice_texts(path, await ask(http, fleet.proxy, path, {**body, "n": 3}))
    assert found == [wanted] * 3


async def test_generate_gives_n_answers(fleet: Fleet, http: aiohttp.ClientSession) -> None:
    wanted = await plain_text(fleet, http, PROMPTS[1])
    body = {"text": PROMPTS[1], "sampling_params": {**GREEDY, "n": 2}}
    assert [one["text"] for one in await ask(http, fleet.proxy, "/generate", body)] == [wanted] * 2


async def test_64_at_once_are_all_right(fleet: Fleet, http: aiohttp.ClientSession) -> None:
    wanted = [await plain_text(fleet, http, prompt) for prompt in PROMPTS]

    async def one(number: int) -> None:
        found = await events(http, fleet.proxy, "/generate", body_for("/generate", PROMPTS[number % 4]))
        assert streamed_text("/generate", found) == wanted[number % 4]

    async with asyncio.TaskGroup() as tasks:
        for number in range(64):
            tasks.create_task(one(number))


@pytest.mark.parametrize("path", ["/generate", CHAT, "/v1/completions"])
async def test_a_bad_request_is_answered_as_by_a_plain_server(
    path: str, fleet: Fleet, http: aiohttp.ClientSession
) -> None:
    body = body_for(path, PROMPTS[0])
    body = (
        {"text": "x", "sampling_params": {"temperature": -1}}
        if path == "/generate"
        else {**body, "temperature": -1}
    )
    async with (
        http.post(fleet.plain.url + path, json=body) as wanted,
        http.post(fleet.proxy + path, json=body) as found,
    ):
        assert found.status == wanted.status == 400
        assert found.headers["X-PD-Attempts"] == "1"
        assert await found.json() == await wanted.json()
