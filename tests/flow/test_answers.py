"""Every text that a client gets is the one right text, on every route and in every form."""

from __future__ import annotations

from typing import Any

import pytest

from tests.flow.talk import CHAT, COMPLETIONS, GENERATE, PROMPT, ROUTES, ask, body_for, start_fleet, texts
from tests.support.engines import BOTH_GENERATIONS, expected, expected_chat
from workers.engine.oracle import tokenize

OTHER = "Once upon a time in the harbor 東京 there was"
generations = pytest.mark.parametrize("version", BOTH_GENERATIONS)
streamed_or_not = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def the_one_text(route: str, prompt: str, tokens: int) -> str:
    if route == CHAT:
        return expected_chat([{"role": "user", "content": prompt}], tokens)
    return expected(prompt, tokens)


@generations
@streamed_or_not
@pytest.mark.parametrize("fleet_size", [1, 2])
async def test_a_single_prompt_gets_its_text(version: str, stream: bool, fleet_size: int) -> None:
    async with start_fleet(fleet_size, fleet_size, engine_version=version) as fleet:
        for route in ROUTES:
            for turn in range(3):
                prompt = f"{PROMPT} {turn}"
                answer = await ask(fleet.http, route, body_for(route, prompt, 12, stream=stream))
                assert answer.status == 200, answer.raw
                assert texts(route, answer, stream) == {0: the_one_text(route, prompt, 12)}
        lines = fleet.proxy.lines
        assert len(lines) == 9
        assert {line["outcome"] for line in lines} == {"ok"}
        assert {line["attempts"] for line in lines} == {1}


@generations
@streamed_or_not
@pytest.mark.parametrize(
    ("route", "field"), [(GENERATE, "text"), (GENERATE, "input_ids"), (COMPLETIONS, "prompt")]
)
async def test_each_prompt_of_a_batch_gets_its_text(
    version: str, stream: bool, route: str, field: str
) -> None:
    prompts = [PROMPT, OTHER, "x"]
    given: list[Any] = [tokenize(one) for one in prompts] if field == "input_ids" else prompts
    body = {**body_for(route, tokens=9, stream=stream), field: given}
    if field == "input_ids":
        del body["text"]
    async with start_fleet(2, 2, engine_version=version) as fleet:
        answer = await ask(fleet.http, route, body)
        assert texts(route, answer, stream) == {i: expected(one, 9) for i, one in enumerate(prompts)}


@streamed_or_not
async def test_token_ids_serve_as_well_as_text(stream: bool) -> None:
    ids = tokenize(PROMPT)
    async with start_fleet() as fleet:
        for route, body in (
            (GENERATE, {"input_ids": ids, "sampling_params": {"max_new_tokens": 7}}),
            (COMPLETIONS, {"prompt": ids, "max_tokens": 7}),
        ):
            answer = await ask(fleet.http, route, {**body, "stream": stream})
            assert texts(route, answer, stream) == {0: expected(PROMPT, 7)}


@generations
async def test_disjoint_streams_stay_disjoint(version: str) -> None:
    async with start_fleet(engine_version=version, incremental_streaming_output=True) as fleet:
        answer = await ask(fleet.http, GENERATE, body_for(GENERATE, tokens=20, stream=True))
        assert len(answer.events) > 5
        assert texts(GENERATE, answer, True, disjoint=True) == {0: expected(PROMPT, 20)}
        batch = {**body_for(GENERATE, tokens=6, stream=True), "text": [PROMPT, OTHER]}
        answer = await ask(fleet.http, GENERATE, batch)
        found = texts(GENERATE, answer, True, disjoint=True)
        assert found == {0: expected(PROMPT, 6), 1: expected(OTHER, 6)}


async def test_the_workers_see_the_clients_body_and_the_bootstrap_keys_of_one_prefill() -> None:
    async with start_fleet(2, 1) as fleet:
        body = body_for(GENERATE, custom={"deep": [1, {"x": None}]}, bootstrap_room=5, bootstrap_host="evil")
        await ask(fleet.http, GENERATE, body)
        (seen,) = (await fleet.decodes[0].state())["requests"]
        prefill = next(p for p in fleet.prefills if p.bootstrap_port == seen["bootstrap_port"])
        (also,) = (await prefill.state())["requests"]
        assert "custom" in seen["keys"]
        assert seen["bootstrap_host"] == prefill.config.host
        assert seen["bootstrap_room"] == also["bootstrap_room"] not in (0, 5)
        assert seen["rid"] == also["rid"]


async def test_a_request_id_is_accepted_sent_on_and_returned() -> None:
    async with start_fleet() as fleet:
        answer = await ask(fleet.http, GENERATE, body_for(GENERATE), X_Request_Id="mine-1")
        assert answer.headers["X-Request-Id"] == "mine-1"
        (seen,) = (await fleet.decodes[0].state())["requests"]
        assert ["x-request-id", "mine-1"] in seen["headers"]
        assert fleet.proxy.lines[0]["request_id"] == "mine-1"
        made = await ask(fleet.http, GENERATE, body_for(GENERATE))
        assert len(made.headers["X-Request-Id"]) == 32


async def test_zero_tokens_that_were_asked_for_are_an_answer() -> None:
    async with start_fleet() as fleet:
        answer = await ask(fleet.http, GENERATE, body_for(GENERATE, tokens=0))
        assert answer.status == 200
        assert fleet.proxy.lines[0]["attempts"] == 1
