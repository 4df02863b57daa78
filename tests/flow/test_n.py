"""n > 1: single requests behind the scenes, one answer in front, as one engine alone gives it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.flow.talk import (
    CHAT,
    COMPLETIONS,
    GENERATE,
    PROMPT,
    ROUTES,
    Answer,
    Json,
    alone,
    ask,
    body_for,
    fault_all,
    start_fleet,
    texts,
)
from tests.support.engines import BOTH_GENERATIONS
from tests.support.proxies import eventually

generations = pytest.mark.parametrize("version", BOTH_GENERATIONS)
streamed_or_not = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
routes = pytest.mark.parametrize("route", ROUTES)


def asks_for(route: str, n: int, **more: Any) -> Json:
    if route == GENERATE:
        body = body_for(route, tokens=5, **more)
        body["sampling_params"]["n"] = n
        return body
    return body_for(route, tokens=5, n=n, **more)


def last_words(route: str, answer: Answer, stream: bool) -> list[Any]:
    """Of each answer, in order: index, how it ended, and what was counted."""
    if route == GENERATE:
        found = answer.events if stream else answer.json
        ends = {one.get("index", at): one["meta_info"] for at, one in enumerate(found)}
        return [
            (at, end["finish_reason"], end["prompt_tokens"], end["completion_tokens"])
            for at, end in sorted(ends.items())
        ]
    bodies = answer.events if stream else [answer.json]
    choices = [choice for body in bodies for choice in body["choices"] if choice["finish_reason"]]
    return sorted((choice["index"], choice["finish_reason"]) for choice in choices)


@routes
@generations
@streamed_or_not
async def test_n_answers_come_in_order_as_from_one_engine(route: str, version: str, stream: bool) -> None:
    body = asks_for(route, 3, stream=stream)
    async with alone(engine_version=version) as one, start_fleet(2, 2, engine_version=version) as fleet:
        wanted, got = await ask(one, route, body), await ask(fleet.http, route, body)
        assert got.status == 200, got.raw
        assert texts(route, got, stream) == texts(route, wanted, stream)
        assert len(texts(route, got, stream)) == 3
        assert last_words(route, got, stream) == last_words(route, wanted, stream)
        if route != GENERATE and not stream:
            assert [choice["index"] for choice in got.json["choices"]] == [0, 1, 2]
            assert got.json.keys() == wanted.json.keys()


@generations
@streamed_or_not
@pytest.mark.parametrize(("route", "field"), [(GENERATE, "text"), (COMPLETIONS, "prompt")])
async def test_n_answers_to_each_prompt_of_a_batch_are_numbered_by_prompt(
    route: str, field: str, version: str, stream: bool
) -> None:
    body = {**asks_for(route, 2, stream=stream), field: [PROMPT, "another", "third"]}
    async with alone(engine_version=version) as one, start_fleet(1, 2, engine_version=version) as fleet:
        wanted, got = await ask(one, route, body), await ask(fleet.http, route, body)
        assert texts(route, got, stream) == texts(route, wanted, stream)
        assert sorted(texts(route, got, stream)) == list(range(6))
        assert last_words(route, got, stream) == last_words(route, wanted, stream)


@pytest.mark.parametrize("route", [CHAT, COMPLETIONS])
@generations
@streamed_or_not
async def test_usage_counts_the_prompt_once_and_every_completion(
    route: str, version: str, stream: bool
) -> None:
    body = asks_for(route, 4, stream=stream)
    if stream:
        body["stream_options"] = {"include_usage": True}
    async with alone(engine_version=version) as one, start_fleet(engine_version=version) as fleet:
        wanted, got = await ask(one, route, body), await ask(fleet.http, route, body)
        if not stream:
            assert got.json["usage"] == wanted.json["usage"]
            return
        told = [event["usage"] for event in got.events if event.get("usage")]
        assert told == [event["usage"] for event in wanted.events if event.get("usage")]
        assert got.events[-1]["choices"] == []
        assert len({event["id"] for event in got.events}) == 1


@routes
@streamed_or_not
async def test_a_clients_rid_is_put_back_in_every_branch(route: str, stream: bool) -> None:
    async with start_fleet() as fleet:
        got = await ask(fleet.http, route, asks_for(route, 2, stream=stream, rid="my own"))
        bodies = got.events if stream else got.json if route == GENERATE else [got.json]
        ids = {body["meta_info"]["id"] if route == GENERATE else body["id"] for body in bodies}
        assert ids <= {"my own", "my own_0", "my own_1"}
        for seen in (await fleet.decodes[0].state())["requests"]:
            assert "my own" not in seen["rid"]


@pytest.mark.parametrize("n", [0, -1, 129])
@routes
async def test_an_n_out_of_range_is_the_clients_error_and_touches_no_worker(route: str, n: int) -> None:
    async with start_fleet() as fleet:
        got = await ask(fleet.http, route, asks_for(route, n))
        assert (got.status, got.json["error"]["param"]) == (400, "n")
        assert (await fleet.decodes[0].state())["total_requests"] == 0


async def test_the_largest_n_is_served() -> None:
    async with start_fleet() as fleet:
        got = await ask(fleet.http, GENERATE, asks_for(GENERATE, 128))
        assert len(got.json) == 128
        assert len({seen["bootstrap_room"] for seen in (await fleet.decodes[0].state())["requests"]}) == 128


@routes
@streamed_or_not
async def test_a_branch_that_fails_is_tried_again(route: str, stream: bool) -> None:
    async with start_fleet(1, 2) as fleet:
        await fleet.decodes[0].fault("kv_transfer", count=2)
        got = await ask(fleet.http, route, asks_for(route, 3, stream=stream))
        assert got.status == 200, got.raw
        assert sorted(texts(route, got, stream)) == [0, 1, 2]


@routes
@streamed_or_not
async def test_a_branch_that_cannot_be_saved_fails_the_answer_before_it_begins(
    route: str, stream: bool
) -> None:
    settings = {"retries": {"attempts": 1}}
    async with start_fleet(settings=settings) as fleet:
        await fault_all(fleet.decodes, "status", status=500)
        got = await ask(fleet.http, route, asks_for(route, 3, stream=stream))
        assert got.status == 500
        assert got.json["error"]["type"] == "server_error"


@routes
async def test_a_branch_that_breaks_off_ends_the_stream_with_an_error(route: str) -> None:
    async with start_fleet(settings={"retries": {"continuation": "off"}}) as fleet:
        await fleet.decodes[0].fault("truncate", after_events=3, count=1)
        got = await ask(fleet.http, route, asks_for(route, 3, stream=True))
        assert got.events[-1]["error"]["code"] == "truncated_midstream"
        await eventually(lambda: fleet.proxy.lines)
        assert fleet.proxy.lines[0]["outcome"] == "truncated_midstream"


async def test_without_a_pair_n_answers_are_refused_as_one_is() -> None:
    async with start_fleet(1, 0) as fleet:
        got = await ask(fleet.http, GENERATE, asks_for(GENERATE, 2))
        assert got.status == 503
        assert "no decode worker" in got.json["error"]["message"]


async def test_log_probabilities_come_with_every_branch() -> None:
    body = asks_for(GENERATE, 2, return_logprob=True, logprob_start_len=0)
    async with alone() as one, start_fleet() as fleet:
        wanted, got = await ask(one, GENERATE, body), await ask(fleet.http, GENERATE, body)
        for mine, theirs in zip(got.json, wanted.json, strict=True):
            for key in ("input_token_logprobs", "output_token_logprobs"):
                assert mine["meta_info"][key] == theirs["meta_info"][key]
