"""Workers of one model stream /generate in different forms: a client is told in the one it began with."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.flow.talk import GENERATE, Fleet, Json, alone, ask, body_for
from tests.flow.test_continuation import unbroken
from tests.support.engines import BOTH_GENERATIONS, start_engine
from tests.support.proxies import start_proxy
from workers.engine.oracle import tokenize

TOKENS = 24


async def start_mixed(stack: AsyncExitStack, **config: Any) -> Fleet:
    """A prefill and two decodes, of which one tells all in each event and one only what is new."""
    prefill = await stack.enter_async_context(start_engine("prefill", **config))
    decodes = [
        await stack.enter_async_context(start_engine("decode", incremental_streaming_output=form, **config))
        for form in (False, True)
    ]
    settings: dict[str, Json] = {"routing": {"policy": "random"}, "breaker": {"enabled": False}}
    proxy = await stack.enter_async_context(start_proxy([prefill], decodes, **settings))
    return Fleet(proxy, [prefill], decodes)


def is_disjoint(events: list[Json]) -> bool:
    return bool(len(events[1]["output_ids"]) < events[1]["meta_info"]["completion_tokens"])


def told(events: list[Json], disjoint: bool) -> list[Any]:
    """What a client knows at last, by the form of the first events: text, ids, and what came with them."""
    parts = [
        (one["text"], one["output_ids"], *(one["meta_info"][f"output_{name}_logprobs"] for name in LISTS))
        for one in events
    ]
    text, ids, *lists = zip(*parts, strict=True)
    if not disjoint:
        return [text[-1], ids[-1], *(one[-1] for one in lists)]
    return ["".join(text), _joined(ids), *map(_joined, lists)]


def _joined(parts: Iterable[list[Any]]) -> list[Any]:
    return [one for part in parts for one in part]


LISTS = ("token", "top")


def sizes(values: list[Any]) -> list[Any]:
    """The values of log probabilities are an engine's own; for how many tokens there are some is not."""
    text, ids, tokens, tops = values
    return [text, ids, [one[1] for one in tokens], len(tops)]


@pytest.mark.parametrize("version", BOTH_GENERATIONS)
@pytest.mark.parametrize("interval", [1, 3])
async def test_a_stream_keeps_the_form_that_it_began_with(version: str, interval: int) -> None:
    # 0.5.2 cannot be asked which tokens of an event that holds several make whole characters.
    split = interval == 1 or version == "0.5.23"
    config: Json = {"engine_version": version, "stream_interval": interval, "split_characters": split}
    body = body_for(GENERATE, tokens=TOKENS, stream=True, return_logprob=True, top_logprobs_num=2)
    body["input_ids"] = tokenize(body.pop("text"))
    wanted = {}
    for form in (False, True):
        async with alone(incremental_streaming_output=form, **config) as http:
            wanted[form] = unbroken(await ask(http, GENERATE, body))
            assert is_disjoint(wanted[form]) is form
    begun: set[tuple[bool, int]] = set()
    async with AsyncExitStack() as stack:
        fleet = await start_mixed(stack, **config)
        for number in range(60):
            after = 2 + number % 4
            for decode in fleet.decodes:
                await decode.clear_faults()
                await decode.fault("truncate", count=1, after_events=after)
            got = unbroken(await ask(fleet.http, GENERATE, body))
            form = is_disjoint(got)
            begun.add((form, after))
            assert fleet.proxy.lines[-1]["continued"] == ["exact", "exact"]
            assert sizes(told(got, form)) == sizes(told(wanted[form], form))
            counts = [one["meta_info"]["completion_tokens"] for one in got]
            assert counts == sorted(counts)
            assert counts[-1] == TOKENS
            if len(begun) == 8:
                break
    assert {form for form, _ in begun} == {False, True}
