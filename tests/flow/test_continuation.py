"""A stream that breaks after its first token goes on from another pair, and its client does not notice."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.flow.talk import (
    CHAT,
    COMPLETIONS,
    GENERATE,
    PROMPT,
    ROUTES,
    Answer,
    Fleet,
    Json,
    ask,
    body_for,
    start_fleet,
    texts,
)
from tests.support.engines import BOTH_GENERATIONS, expected, expected_chat
from tests.support.proxies import eventually
from workers.engine.oracle import Model, chat_prompt, completion, tokenize

routes = pytest.mark.parametrize("route", ROUTES)
generations = pytest.mark.parametrize("version", BOTH_GENERATIONS)
forms = pytest.mark.parametrize("disjoint", [False, True], ids=["cumulative", "disjoint"])
BREAKS: dict[str, Json] = {
    "truncate": {"after_events": 4},
    "reset": {"after_bytes": 1500},
    "error_event": {"after_events": 4, "status": 500, "message": "out of memory"},
    "abort": {"after_events": 4, "status": 500},
}


def right(route: str, tokens: int, prompt: str = PROMPT) -> str:
    """The text that a client must get."""
    if route == CHAT:
        return expected_chat([{"role": "user", "content": prompt}], tokens)
    return expected(prompt, tokens)


async def break_next(fleet: Fleet, kind: str = "truncate", count: int = 1, **fields: Any) -> None:
    """The next stream breaks, on whichever decode it runs, and after it `count` - 1 others."""
    # Each decode would break its own; so one fault stands on one decode only, where there is one.
    for decode in fleet.decodes:
        await decode.fault(kind, count=count, **(fields or BREAKS[kind]))


def unbroken(answer: Answer) -> list[Json]:
    """The events of a stream that no error has ended."""
    assert answer.status == 200
    events = answer.events
    assert not [event for event in events if "error" in event], events[-1]
    return events


@routes
@generations
@pytest.mark.parametrize("kind", BREAKS)
async def test_a_broken_stream_goes_on_as_if_nothing_had_happened(
    route: str, version: str, kind: str
) -> None:
    async with start_fleet(1, 1, engine_version=version) as fleet:
        await break_next(fleet, kind)
        got = await ask(fleet.http, route, body_for(route, tokens=30, stream=True))
        unbroken(got)
        assert texts(route, got, True) == {0: right(route, 30)}
        line = fleet.proxy.lines[0]
        assert (line["outcome"], line["attempts"]) == ("ok", 2)
        exact = route == GENERATE and version == "0.5.23"
        assert line["continued"] == ["exact" if exact else "approximate"]


@routes
async def test_silence_in_the_middle_is_a_break_too(route: str) -> None:
    async with start_fleet(1, 2, settings={"upstream": {"between_chunks_s": 0.4}}) as fleet:
        await fleet.decodes[0].fault("hang", after_events=4, count=1)
        await fleet.decodes[1].fault("hang", after_events=4, count=1)
        got = await ask(fleet.http, route, body_for(route, tokens=30, stream=True))
        unbroken(got)
        assert texts(route, got, True) == {0: right(route, 30)}


@routes
@generations
async def test_a_decode_that_dies_takes_no_stream_with_it(route: str, version: str) -> None:
    async with start_fleet(1, 2, engine_version=version) as fleet:
        for decode in fleet.decodes:
            await decode.fault("die", after_events=5, count=1, probability=1.0)
        # The one that is left must not die as well.
        await fleet.decodes[1].clear_faults()
        for _ in range(2):
            got = await ask(fleet.http, route, body_for(route, tokens=30, stream=True))
            assert texts(route, got, True) == {0: right(route, 30)}
        assert {line["outcome"] for line in fleet.proxy.lines} == {"ok"}


@generations
@forms
@pytest.mark.parametrize("by_ids", [False, True], ids=["text", "input_ids"])
async def test_every_member_of_generates_events_goes_on(version: str, disjoint: bool, by_ids: bool) -> None:
    config = {"engine_version": version, "incremental_streaming_output": disjoint}
    body = body_for(GENERATE, tokens=20, stream=True, return_logprob=True, top_logprobs_num=2)
    if by_ids:
        del body["text"]
        body["input_ids"] = tokenize(PROMPT)
    async with start_fleet(1, 1, **config) as fleet:
        wanted = unbroken(await ask(fleet.http, GENERATE, body))
        await break_next(fleet)
        got = unbroken(await ask(fleet.http, GENERATE, body))
        assert len(got) == len(wanted)
        ids = {event["meta_info"]["id"] for event in got}
        assert len(ids) == 1
        for mine, theirs in zip(got, wanted, strict=True):
            assert (mine["text"], mine["output_ids"]) == (theirs["text"], theirs["output_ids"])
            for key in (
                "prompt_tokens",
                "completion_tokens",
                "finish_reason",
                "input_token_logprobs",
                "output_token_logprobs_length",
                "weight_versions",
            ):
                assert mine["meta_info"].get(key) == theirs["meta_info"].get(key), key
            for key in ("output_token_logprobs", "output_top_logprobs"):
                # Their values are the engine's own business; which token they are of is not.
                assert [
                    [one[1]] if key[7] == "t" and one[1:] and not isinstance(one[0], list) else len(one)
                    for one in mine["meta_info"][key]
                ] == [
                    [one[1]] if key[7] == "t" and one[1:] and not isinstance(one[0], list) else len(one)
                    for one in theirs["meta_info"][key]
                ], key
        assert fleet.proxy.lines[1]["continued"] == [
            "exact" if by_ids or version == "0.5.23" else "approximate"
        ]


@pytest.mark.parametrize("route", [CHAT, COMPLETIONS])
@generations
async def test_id_time_model_role_and_usage_are_those_of_one_answer(route: str, version: str) -> None:
    body = body_for(
        route, tokens=20, stream=True, stream_options={"include_usage": True}, model="a name of its own"
    )
    async with start_fleet(1, 1, engine_version=version) as fleet:
        wanted = unbroken(await ask(fleet.http, route, body))
        await break_next(fleet)
        got = unbroken(await ask(fleet.http, route, body))
        assert len({(one["id"], one["created"], one["model"]) for one in got}) == 1
        assert [one["choices"] for one in got] == [one["choices"] for one in wanted]
        assert got[-1]["usage"] == wanted[-1]["usage"]
        if route == CHAT:
            roles = [one["choices"][0]["delta"].get("role") for one in got[:-1]]
            assert roles.count("assistant") == 1


@pytest.mark.parametrize("route", [CHAT, COMPLETIONS])
@generations
async def test_log_probabilities_go_on(route: str, version: str) -> None:
    more: Json = {"logprobs": True, "top_logprobs": 2} if route == CHAT else {"logprobs": 2}
    body = body_for(route, tokens=20, stream=True, **more)

    def tokens(answer: Answer) -> list[str]:
        found = []
        for event in unbroken(answer):
            logprobs = event["choices"][0]["logprobs"] or {}
            found += [one["token"] for one in logprobs.get("content", [])] + logprobs.get("tokens", [])
        return found

    async with start_fleet(1, 1, engine_version=version) as fleet:
        wanted = tokens(await ask(fleet.http, route, body))
        await break_next(fleet)
        assert tokens(await ask(fleet.http, route, body)) == wanted
        assert fleet.proxy.lines[1]["attempts"] == 2


@routes
@generations
async def test_a_stream_may_break_again_and_again(route: str, version: str) -> None:
    async with start_fleet(1, 1, engine_version=version) as fleet:
        await break_next(fleet, count=8, after_events=3)
        got = await ask(fleet.http, route, body_for(route, tokens=60, stream=True))
        unbroken(got)
        assert texts(route, got, True) == {0: right(route, 60)}
        line = fleet.proxy.lines[0]
        assert (line["outcome"], len(line["continued"])) == ("ok", 8)


@routes
@generations
async def test_n_answers_are_continued_one_by_one(route: str, version: str) -> None:
    async with start_fleet(1, 2, engine_version=version) as fleet:
        body = body_for(route, tokens=20, stream=True)
        (body["sampling_params"] if route == GENERATE else body)["n"] = 2
        await fleet.decodes[0].fault("truncate", after_events=4, count=1)
        got = await ask(fleet.http, route, body)
        unbroken(got)
        assert texts(route, got, True) == {0: right(route, 20), 1: right(route, 20)}


SPLIT = Model(split_characters=True)


def splitting(route: str) -> tuple[str, list[int]]:
    """A prompt whose answer has incomplete characters early on, and the events behind which they are."""
    for number in range(1000):
        prompt = f"{PROMPT} {number} "
        asked = chat_prompt([{"role": "user", "content": prompt}]) if route == CHAT else prompt
        pieces = completion(asked, 24, SPLIT).texts
        inside = [at for at in range(2, 12) if pieces[at - 1] == "" and pieces[0]]
        if len(inside) > 3:
            # A chat has an event for its role, and none for a token without text.
            shown = [sum(map(bool, pieces[:at])) + 1 for at in inside]
            return prompt, sorted(set(shown)) if route == CHAT else inside
    raise AssertionError("no such prompt")


@routes
@generations
@forms
async def test_the_seam_is_behind_a_whole_character(route: str, version: str, disjoint: bool) -> None:
    config = {"engine_version": version, "split_characters": True, "incremental_streaming_output": disjoint}
    prompt, breaks = splitting(route)
    body = body_for(route, prompt, tokens=24, stream=True)
    if route == COMPLETIONS:
        body |= {"return_token_ids": True, "logprobs": 1}
    async with start_fleet(1, 1, **config) as fleet:
        wanted = unbroken(await ask(fleet.http, route, body))
        for after in breaks:
            await break_next(fleet, after_events=after)
            got = unbroken(await ask(fleet.http, route, body))
            assert fleet.proxy.lines[-1]["attempts"] == 2
            if version == "0.5.2" and route == CHAT:
                # Tokens without text are told by nobody there: a few more may come.
                told, right_one = (_said(route, one) for one in (got, wanted))
                assert told.startswith(right_one.rstrip("\ufffd"))
                continue
            assert _told_tokens(route, got, disjoint) == _told_tokens(route, wanted, disjoint)
            if route == GENERATE:
                assert [one["text"] for one in got] == [one["text"] for one in wanted]
                counts = [one["meta_info"]["completion_tokens"] for one in got]
                assert counts == sorted(set(counts)), "no token is told twice"
            else:
                assert _said(route, got) == _said(route, wanted)


@forms
@pytest.mark.parametrize("interval", [2, 3, 5])
async def test_an_event_of_several_tokens_may_hold_a_part_of_a_character(
    disjoint: bool, interval: int
) -> None:
    config = {
        "split_characters": True,
        "incremental_streaming_output": disjoint,
        "stream_interval": interval,
    }
    prompt, _ = splitting(GENERATE)
    body = body_for(GENERATE, prompt, tokens=24, stream=True)
    body["input_ids"] = tokenize(body.pop("text"))
    async with start_fleet(1, 1, **config) as fleet:
        wanted = unbroken(await ask(fleet.http, GENERATE, body))
        for after in range(1, len(wanted)):
            await break_next(fleet, after_events=after)
            got = unbroken(await ask(fleet.http, GENERATE, body))
            assert fleet.proxy.lines[-1]["continued"] == ["exact"]
            assert _told_tokens(GENERATE, got, disjoint) == _told_tokens(GENERATE, wanted, disjoint)
            assert texts(GENERATE, Answer(200, {}, _raw(got)), True, disjoint=disjoint) == {
                0: completion(body["input_ids"], 24, SPLIT).text
            }
            if not disjoint:
                counts = [one["meta_info"]["completion_tokens"] for one in got]
                assert counts == sorted(set(counts)), "no token is told twice"


@forms
@pytest.mark.parametrize("interval", [2, 3, 5])
@pytest.mark.parametrize("echo", [False, True])
async def test_a_completion_by_ids_never_splits_a_character(
    disjoint: bool, interval: int, echo: bool
) -> None:
    config: Json = {
        "split_characters": True,
        "incremental_streaming_output": disjoint,
        "stream_interval": interval,
    }
    prompt, _ = splitting(COMPLETIONS)
    body = body_for(COMPLETIONS, prompt, tokens=24, stream=True, logprobs=1, return_token_ids=True, echo=echo)
    async with start_fleet(1, 1, **config) as fleet:
        wanted = unbroken(await ask(fleet.http, COMPLETIONS, body))
        for after in range(1, len(wanted)):
            await break_next(fleet, after_events=after)
            got = unbroken(await ask(fleet.http, COMPLETIONS, body))
            assert fleet.proxy.lines[-1]["continued"] == ["exact"]
            assert _said(COMPLETIONS, got) == _said(COMPLETIONS, wanted)
            assert (
                _told_tokens(COMPLETIONS, got, disjoint)[1] == _told_tokens(COMPLETIONS, wanted, disjoint)[1]
            )


@generations
@forms
async def test_events_of_several_tokens_go_on_in_their_form(version: str, disjoint: bool) -> None:
    config = {"engine_version": version, "incremental_streaming_output": disjoint, "stream_interval": 3}
    body = body_for(GENERATE, tokens=24, stream=True)
    body["input_ids"] = tokenize(body.pop("text"))
    async with start_fleet(1, 1, **config) as fleet:
        for after in range(1, 8):
            await break_next(fleet, after_events=after)
            got = unbroken(await ask(fleet.http, GENERATE, body))
            wanted = completion(body["input_ids"], 24)
            assert _told_tokens(GENERATE, got, disjoint) == list(wanted.ids)
            assert texts(GENERATE, Answer(200, {}, _raw(got)), True, disjoint=disjoint) == {0: wanted.text}


def _said(route: str, events: list[Json]) -> str:
    return texts(route, Answer(200, {}, _raw(events)), True)[0]


def _told_tokens(route: str, events: list[Json], disjoint: bool) -> Any:
    if route == GENERATE:
        return (
            [token for one in events for token in one["output_ids"]] if disjoint else events[-1]["output_ids"]
        )
    if route == CHAT:
        return None
    choices = [one["choices"][0] for one in events]
    tokens = [token for one in choices for token in one["logprobs"]["tokens"]]
    return tokens, [token for one in choices for token in one.get("token_ids", [])]


@routes
@generations
@forms
async def test_a_stop_string_is_found_across_the_seam(route: str, version: str, disjoint: bool) -> None:
    async with start_fleet(1, 1, engine_version=version, incremental_streaming_output=disjoint) as fleet:
        seam = 5 if route == CHAT else 4  # the role's chunk is an event of its own
        whole = completion(PROMPT, 20) if route != CHAT else None
        pieces = list(whole.texts) if whole else _chat_pieces(20)
        stop = pieces[3][-2:] + pieces[4][:3]
        text = "".join(pieces)
        assert text.index(stop) == len("".join(pieces[:4])) - 2
        body = body_for(route, tokens=20, stream=True)
        (body["sampling_params"] if route == GENERATE else body)["stop"] = [stop, "never"]
        if route != GENERATE:
            body["stream_options"] = {"include_usage": True}
        wanted = unbroken(await ask(fleet.http, route, body))
        await break_next(fleet, after_events=seam)
        got = unbroken(await ask(fleet.http, route, body))
        if route == GENERATE:
            assert got[-1]["meta_info"]["finish_reason"] == wanted[-1]["meta_info"]["finish_reason"]
            assert got[-1]["meta_info"]["completion_tokens"] == 5
            assert [one["text"] for one in got] == [one["text"] for one in wanted]
        else:
            assert [one["choices"] for one in got if one["choices"]] == [
                one["choices"] for one in wanted if one["choices"]
            ]
            if version == "0.5.23":
                assert got[-1]["usage"]["total_tokens"] == wanted[-1]["usage"]["total_tokens"]


def _chat_pieces(tokens: int) -> list[str]:
    return list(completion(chat_prompt([{"role": "user", "content": PROMPT}]), tokens).texts)


@routes
@generations
async def test_a_stream_of_which_all_was_said_is_only_ended(route: str, version: str) -> None:
    async with start_fleet(1, 1, engine_version=version) as fleet:
        body = body_for(route, tokens=6, stream=True)
        if route != GENERATE:
            body["stream_options"] = {"include_usage": True}
        wanted = unbroken(await ask(fleet.http, route, body))
        for after in range(len(wanted) - 1, len(wanted) + 1):
            await break_next(fleet, after_events=after)
            got = unbroken(await ask(fleet.http, route, body))
            assert texts(route, Answer(200, {}, _raw(got)), True) == {0: right(route, 6)}
            assert _reason(route, got) == _reason(route, wanted)
            if version == "0.5.23" and route != GENERATE:
                told = {key: got[-1]["usage"][key] for key in ("prompt_tokens", "completion_tokens")}
                assert told.items() <= wanted[-1]["usage"].items()


def _raw(events: list[Json]) -> bytes:
    return b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in events) + b"data: [DONE]\n\n"


def _reason(route: str, events: list[Json]) -> Any:
    if route == GENERATE:
        return events[-1]["meta_info"]["finish_reason"]
    return [one["choices"][0]["finish_reason"] for one in events if one["choices"]][-1]


@routes
async def test_a_clients_own_rid_stays(route: str) -> None:
    async with start_fleet(1, 2) as fleet:
        await break_next(fleet)
        got = unbroken(await ask(fleet.http, route, body_for(route, stream=True, tokens=20, rid="my own")))
        ids = {one["meta_info"]["id"] if route == GENERATE else one["id"] for one in got}
        assert ids == {"my own"}


@pytest.mark.parametrize("n", [1, 2])
async def test_a_slow_client_is_waited_for_after_the_break_too(n: int) -> None:
    async with start_fleet(1, 2) as fleet:
        await break_next(fleet, after_events=50)
        body = body_for(GENERATE, tokens=1200, stream=True)
        body["sampling_params"]["n"] = n
        async with fleet.http.post(GENERATE, json=body) as response:
            live = fleet.proxy.service.carriage.live

            def all_wait() -> bool:
                connections = [one._decode.connection for one in live.values()]
                return len(connections) == n and all(one is not None and one.paused for one in connections)

            # It reads nothing: whoever speaks now has to stop.
            await eventually(all_wait)
            answer = Answer(200, {}, await response.read())
        assert texts(GENERATE, answer, True) == dict.fromkeys(range(n), expected(PROMPT, 1200))
        await eventually(lambda: fleet.proxy.lines)
        assert fleet.proxy.lines[0]["attempts"] > n


async def test_a_stream_that_broke_off_counts_against_its_worker() -> None:
    async with start_fleet(1, 2, settings={"breaker": {"failures": 1}}) as fleet:
        await break_next(fleet)
        unbroken(await ask(fleet.http, GENERATE, body_for(GENERATE, tokens=20, stream=True)))
        members = list(fleet.proxy.service.pool.members())
        assert [one.worker.role for one in members if not one.breaker.closed] == ["decode"]
        scraped = fleet.proxy.service.metrics.exposition(None)[0]
        legs = [line for line in scraped.splitlines() if b'outcome="truncated_midstream"' in line]
        assert len(legs) == fleet.proxy.lines[0]["attempts"] - 1
