"""Engines that cannot be asked for token ids, and a proxy that has their tokenizer in its settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flow.talk import (
    CHAT,
    COMPLETIONS,
    GENERATE,
    Answer,
    Json,
    alone,
    ask,
    body_for,
    start_fleet,
    texts,
)
from tests.flow.test_continuation import SPLIT, _raw, break_next, right, splitting, unbroken
from tests.support.tokenizer_files import write_tokenizer
from workers.engine.oracle import completion, tokenize

OLD = "0.5.2"


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Json]:
    return {"retries": {"tokenizer": str(write_tokenizer(tmp_path))}}


async def test_a_text_is_continued_by_its_ids(settings: dict[str, Json]) -> None:
    async with start_fleet(1, 1, settings=settings, engine_version=OLD) as fleet:
        await break_next(fleet)
        got = await ask(fleet.http, GENERATE, body_for(GENERATE, tokens=30, stream=True))
        unbroken(got)
        assert texts(GENERATE, got, True) == {0: right(GENERATE, 30)}
        assert fleet.proxy.lines[0]["continued"] == ["exact"]


async def test_a_tokenizer_of_another_model_is_not_used(tmp_path: Path) -> None:
    settings = {"retries": {"tokenizer": f"another={write_tokenizer(tmp_path)}"}}
    async with start_fleet(1, 1, settings=settings, engine_version=OLD) as fleet:
        await break_next(fleet)
        unbroken(await ask(fleet.http, GENERATE, body_for(GENERATE, tokens=30, stream=True)))
        assert fleet.proxy.lines[0]["continued"] == ["approximate"]


@pytest.mark.parametrize("route", [CHAT, COMPLETIONS])
async def test_events_of_several_tokens_are_counted_right(route: str, settings: dict[str, Json]) -> None:
    body = body_for(route, tokens=30, stream=True, stream_options={"include_usage": True})
    async with start_fleet(1, 1, settings=settings, engine_version=OLD, stream_interval=4) as fleet:
        wanted = unbroken(await ask(fleet.http, route, body))
        await break_next(fleet, after_events=4)
        got = unbroken(await ask(fleet.http, route, body))
        assert texts(route, Answer(200, {}, _raw(got)), True) == {0: right(route, 30)}
        assert got[-1]["usage"]["completion_tokens"] == wanted[-1]["usage"]["completion_tokens"] == 30
        assert fleet.proxy.lines[-1]["attempts"] == 2


@pytest.mark.parametrize("disjoint", [False, True], ids=["cumulative", "disjoint"])
async def test_a_character_within_an_event_of_several_tokens_is_whole(
    disjoint: bool, settings: dict[str, Json]
) -> None:
    config: Json = {
        "engine_version": OLD,
        "split_characters": True,
        "incremental_streaming_output": disjoint,
        "stream_interval": 3,
    }
    prompt, _ = splitting(GENERATE)
    body = body_for(GENERATE, prompt, tokens=24, stream=True)
    async with alone(**config) as http:
        events = len(unbroken(await ask(http, GENERATE, body)))
    wanted = completion(tokenize(prompt), 24, SPLIT).text
    async with start_fleet(1, 1, settings=settings, **config) as fleet:
        for after in range(1, events):
            await break_next(fleet, after_events=after)
            got = await ask(fleet.http, GENERATE, body)
            unbroken(got)
            assert texts(GENERATE, got, True, disjoint=disjoint) == {0: wanted}
            assert fleet.proxy.lines[-1]["continued"] == ["exact"]


async def test_a_tokenizer_that_cuts_otherwise_than_the_engine_is_not_believed(tmp_path: Path) -> None:
    library = pytest.importorskip("tokenizers")
    wrong = library.Tokenizer(library.models.WordLevel({"?": 1000000}, unk_token="?"))
    wrong.save(str(tmp_path / "tokenizer.json"))
    settings = {"retries": {"tokenizer": str(tmp_path)}}
    async with start_fleet(1, 1, settings=settings, engine_version=OLD) as fleet:
        await break_next(fleet)
        got = await ask(fleet.http, GENERATE, body_for(GENERATE, tokens=30, stream=True))
        assert texts(GENERATE, got, True) == {0: right(GENERATE, 30)}
        assert fleet.proxy.lines[0]["continued"] == ["approximate"]
