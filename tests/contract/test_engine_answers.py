"""The simulated engine beside a real SGLang 0.5.23, request by request as tests/real/record.py made them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.engine_client import ask, capture
from tests.contract.shapes import event_shapes, loose, same_head, told
from tests.real.recorded import ANSWERS
from tests.support.engines import start_engine

_NOT_SIMULATED = {
    "server_info",  # hundreds of arguments: see below
    "bad_schema",
    "bad_schema_stream",
    "bad_chat_schema",  # grammars
    "bad_chat_tool",
    "bad_chat_role",
    "bad_top_p",
}
REFUSED = sorted(name for name in ANSWERS if name.startswith("bad_") and name not in _NOT_SIMULATED)
STREAMED = sorted(name for name in ANSWERS if name.endswith("_stream") and not name.startswith("bad_"))
WHOLE = sorted(set(ANSWERS) - set(REFUSED) - set(STREAMED) - _NOT_SIMULATED)


@pytest.mark.parametrize("name", REFUSED)
async def test_a_refusal_is_the_recorded_one(name: str) -> None:
    async with start_engine(model="tiny", context_length=2048) as engine:
        ours, real = await ask(engine, *ANSWERS[name]), capture(f"plain_{name}")
    same_head(ours, real)
    assert told(ours) == told(real)


@pytest.mark.parametrize("name", WHOLE)
async def test_an_answer_has_the_recorded_shape(name: str) -> None:
    async with start_engine(model="tiny", context_length=2048) as engine:
        ours, real = await ask(engine, *ANSWERS[name]), capture(f"plain_{name}")
    same_head(ours, real)
    assert loose(ours.json) == loose(real.json)


@pytest.mark.parametrize("name", STREAMED)
async def test_a_stream_has_events_of_the_recorded_shapes(name: str) -> None:
    async with start_engine(model="tiny", context_length=2048, split_characters=True) as engine:
        ours, real = await ask(engine, *ANSWERS[name]), capture(f"plain_{name}")
    same_head(ours, real)
    assert event_shapes(ours) == event_shapes(real)
    assert ours.done
    assert real.done


def test_what_is_not_simulated_is_recorded_all_the_same() -> None:
    found: dict[str, Any] = {name: capture(f"plain_{name}").status for name in _NOT_SIMULATED}
    assert found.pop("server_info") == found.pop("bad_schema_stream") == 200
    assert set(found.values()) == {400}
