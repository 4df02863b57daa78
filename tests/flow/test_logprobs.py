"""What only prefill knows stands in decode's answer, as in that of an engine that serves alone."""

from __future__ import annotations

from typing import Any

import pytest

from tests.flow.talk import COMPLETIONS, GENERATE, PROMPT, Answer, Json, alone, ask, start_fleet
from tests.support.engines import BOTH_GENERATIONS

generations = pytest.mark.parametrize("version", BOTH_GENERATIONS)
streamed_or_not = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
SAMPLING = {"max_new_tokens": 6}
WISH = {
    "return_logprob": True,
    "logprob_start_len": 0,
    "top_logprobs_num": 2,
    "return_text_in_logprobs": True,
}


def known(event: Json) -> Json:
    """What two engines say alike: all but ids, times and caches."""
    meta = event["meta_info"]
    return {
        "text": event["text"],
        "output_ids": event["output_ids"],
        "index": event.get("index"),
        **{
            name: value
            for name, value in meta.items()
            if "logprobs" in name or name in ("finish_reason", "prompt_tokens", "completion_tokens")
        },
    }


def events_of(answer: Answer, stream: bool) -> list[Json]:
    if stream:
        return answer.events
    return answer.json if isinstance(answer.json, list) else [answer.json]


def in_order(event: Json) -> tuple[int, int]:
    return (event["index"] or 0, event["completion_tokens"])


@generations
@streamed_or_not
@pytest.mark.parametrize("text", [PROMPT, [PROMPT, "another one", "x"]], ids=["single", "batch"])
async def test_a_pair_tells_the_log_probabilities_that_one_engine_tells(
    version: str, stream: bool, text: Any
) -> None:
    body = {"text": text, "sampling_params": SAMPLING, "stream": stream, **WISH}
    async with alone(engine_version=version) as one, start_fleet(engine_version=version) as fleet:
        wanted, got = await ask(one, GENERATE, body), await ask(fleet.http, GENERATE, body)
        assert got.status == 200, got.raw
        told = sorted(map(known, events_of(got, stream)), key=in_order)
        assert told == sorted(map(known, events_of(wanted, stream)), key=in_order)
        assert all(len(event["input_token_logprobs"]) > 0 for event in told)


async def test_disjoint_streams_get_the_prompts_part_in_every_event() -> None:
    body = {"text": PROMPT, "sampling_params": SAMPLING, "stream": True, **WISH}
    config = {"incremental_streaming_output": True}
    async with alone(**config) as one, start_fleet(**config) as fleet:
        wanted, got = await ask(one, GENERATE, body), await ask(fleet.http, GENERATE, body)
        assert list(map(known, got.events)) == list(map(known, wanted.events))


async def test_a_batch_may_want_them_for_some_of_its_prompts_only() -> None:
    body = {"text": [PROMPT, "b"], "sampling_params": SAMPLING, "return_logprob": [False, True]}
    async with alone() as one, start_fleet() as fleet:
        wanted, got = await ask(one, GENERATE, body), await ask(fleet.http, GENERATE, body)
        assert list(map(known, got.json)) == list(map(known, wanted.json))


@generations
@streamed_or_not
@pytest.mark.parametrize("prompt", [PROMPT, [PROMPT, "another one"]], ids=["single", "batch"])
async def test_echo_with_logprobs_tells_the_prompts_tokens_first(
    version: str, stream: bool, prompt: Any
) -> None:
    body = {"model": "m", "prompt": prompt, "max_tokens": 5, "echo": True, "logprobs": 2, "stream": stream}
    async with alone(engine_version=version) as one, start_fleet(engine_version=version) as fleet:
        wanted, got = await ask(one, COMPLETIONS, body), await ask(fleet.http, COMPLETIONS, body)
        assert got.status == 200, got.raw

        def choices(answer: Answer) -> list[Json]:
            bodies = answer.events if stream else [answer.json]
            found = [choice for body in bodies for choice in body["choices"]]
            return sorted(found, key=lambda choice: int(choice["index"]))

        assert choices(got) == choices(wanted)


async def test_a_chat_with_logprobs_needs_nothing_of_prefill() -> None:
    body = {
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 5,
        "logprobs": True,
        "top_logprobs": 2,
    }
    async with alone() as one, start_fleet() as fleet:
        wanted, got = (
            await ask(one, "/v1/chat/completions", body),
            await ask(fleet.http, "/v1/chat/completions", body),
        )
        assert got.json["choices"] == wanted.json["choices"]


async def test_a_stream_waits_no_longer_for_prefill_than_it_may() -> None:
    body = {"text": PROMPT, "sampling_params": SAMPLING, "stream": True, **WISH}
    settings = {"upstream": {"logprobs_wait_s": 0.2, "drain_prefill_s": 0.5}}
    async with start_fleet(settings=settings) as fleet:
        await fleet.prefills[0].fault("hang")
        got = await ask(fleet.http, GENERATE, body)
        assert got.events[-1]["meta_info"]["finish_reason"]["type"] == "length"
        assert got.events[-1]["meta_info"]["input_token_logprobs"] == []
