"""How the real SGLang ended what did not end by itself: aborted, refused by a full queue, or doubled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.contract.engine_client import Answer, ask, capture
from tests.contract.shapes import event_shapes, loose, same_head
from tests.real.recorded import ENDS, GENERATE, generate
from tests.support.engines import InProcess, start_engine


@asynccontextmanager
async def busy_engine(**more: Any) -> AsyncIterator[InProcess]:
    """One that generates for somebody, who is aborted at the end."""
    async with (
        start_engine(model="tiny", decode_ms_per_token=5, context_length=2048, **more) as engine,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(ask(engine, GENERATE, generate(1000, rid="twice")))
        while not engine.engine.state()["running"]:
            await asyncio.sleep(0.01)
        yield engine
        await ask(engine, "/abort_request", {"abort_all": True})


def end_of(name: str, answer: Answer) -> Any:
    """The finish reason."""
    last = answer.events[-1] if answer.type.startswith("text/event-stream") else answer.json
    return last["meta_info"]["finish_reason"] if name == "generate" else last["choices"][0]["finish_reason"]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", ENDS)
async def test_what_is_aborted_ends_as_recorded(name: str, streamed: bool) -> None:
    path, body = ENDS[name]
    async with (
        start_engine(model="tiny", decode_ms_per_token=5, split_characters=True) as engine,
        asyncio.TaskGroup() as tasks,
    ):
        task = tasks.create_task(ask(engine, path, {**body, "rid": "one", "stream": streamed}))
        while not engine.engine.state()["running"]:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        aborted = await ask(engine, "/abort_request", {"rid": "one"})
    ours, real = task.result(), capture(f"plain_{name}_aborted{'_stream' if streamed else ''}")
    same_head(ours, real)
    if streamed:
        assert event_shapes(ours) == event_shapes(real)
        assert ours.done
    else:
        assert loose(ours.json) == loose(real.json)
    assert end_of(name, ours) == end_of(name, real)
    assert aborted.body == capture("plain_abort_request").body


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", ENDS)
async def test_a_full_queue_is_told_as_recorded(name: str, streamed: bool) -> None:
    path, body = ENDS[name]
    async with busy_engine(max_running_requests=1, max_queued_requests=0) as engine:
        ours = await ask(engine, path, {**body, "stream": streamed})
    real = capture(f"narrow_{name}_queue_full{'_stream' if streamed else ''}")
    same_head(ours, real)
    if streamed:
        assert event_shapes(ours) == event_shapes(real)
        assert ours.done
    if name != "generate" or not streamed:
        assert ours.json == real.json if not streamed else ours.events == real.events


async def test_a_request_id_in_use_and_a_cache_in_use_are_refused_as_recorded() -> None:
    async with busy_engine() as engine:
        for name, path, body in (
            ("bad_rid_twice", GENERATE, generate(rid="twice")),
            ("bad_flush_running", "/flush_cache", {}),
        ):
            ours, real = await ask(engine, path, body), capture(f"plain_{name}")
            assert ours.status == real.status
            assert ours.body == real.body
    async with start_engine(model="tiny") as engine:
        flushed = await ask(engine, "/flush_cache", {})
    assert flushed.body == capture("plain_flush_cache").body


async def test_every_argument_that_the_server_info_tells_is_one_of_the_real_ones() -> None:
    async with start_engine(model="tiny") as engine:
        ours = (await ask(engine, "/server_info", None)).json
    real = capture("plain_server_info").json
    assert set(ours) <= set(real)
    assert set(ours["internal_states"][0]) <= set(real["internal_states"][0])
    assert {name: type(value) for name, value in ours.items() if type(value) is not type(real[name])} == {}
