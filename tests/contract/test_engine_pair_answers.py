"""A simulated pair beside a real one, both sides, good and failed: as tests/real/record.py made them."""

from __future__ import annotations

import re

import pytest

from tests.contract.engine_client import Answer, ask, ask_pair, capture
from tests.contract.shapes import event_shapes, loose, same_head
from tests.real.recorded import ENDS, GENERATE, PAIR_ANSWERS, generate
from tests.support.engines import start_engine

_OWN = re.compile(r"rid='[^']*'|bootstrap_room=\d+|Request \d+|after [\d.]+s")


def same(ours: Answer, real: Answer) -> None:
    same_head(ours, real)
    if ours.type.startswith("text/event-stream"):
        assert event_shapes(ours) == event_shapes(real)
        assert ours.done
        assert real.done
    else:
        assert loose(ours.json) == loose(real.json)


def message(answer: Answer) -> str:
    """Of a failure, without what is each request's own."""
    body = answer.events[0] if answer.events else answer.json
    if "meta_info" in body:
        body = body["meta_info"]["finish_reason"]
    return _OWN.sub("...", body.get("error", body)["message"])


@pytest.mark.parametrize("name", PAIR_ANSWERS)
async def test_both_sides_answer_as_recorded(name: str) -> None:
    split = {"model": "tiny", "split_characters": True}
    async with start_engine("prefill", **split) as p, start_engine("decode", **split) as d:
        sides = await ask_pair(p, d, *PAIR_ANSWERS[name])
    for side, ours in zip(("prefill", "decode"), sides, strict=True):
        same(ours, capture(f"{side}_{name}"))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", ENDS)
async def test_both_sides_tell_of_a_wrong_bootstrap_port_as_recorded(name: str, streamed: bool) -> None:
    path, body = ENDS[name]
    soon = {"model": "tiny", "bootstrap_timeout_s": 0.3, "handshake_timeout_s": 0.3}
    async with start_engine("prefill", **soon) as p, start_engine("decode", **soon) as d:
        sides = await ask_pair(p, d, path, {**body, "stream": streamed}, bootstrap_port=1)
    for side, ours in zip(("prefill", "decode"), sides, strict=True):
        real = capture(f"{side}_{name}_wrong_port{'_stream' if streamed else ''}")
        same(ours, real)
        assert message(ours) == message(real)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_decode_without_a_room_says_so_as_recorded(streamed: bool) -> None:
    async with start_engine("decode", model="tiny") as decode:
        ours = await ask(decode, GENERATE, generate(stream=streamed))
    real = capture(f"decode_bad_no_room{'_stream' if streamed else ''}")
    same(ours, real)
    assert message(ours) == message(real)
