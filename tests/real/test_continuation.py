"""A real decode is killed while it streams: each client reads what a plain server would have told."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from tests.real.asking import CHAT, GREEDY, OPENAI, PROMPTS, events, metric, streamed_text, tell, until_ready
from tests.real.fleet import Fleet

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

TOKENS = 300
COMPLETIONS = "/v1/completions"


@dataclass
class Telling:
    """One stream: what was asked, and what came."""

    path: str
    body: dict[str, Any]
    found: list[Any] = field(default_factory=list)
    is_under_way: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self, http: aiohttp.ClientSession, url: str) -> None:
        async for event in tell(http, url, self.path, self.body):
            self.found.append(event)
            if len(self.found) == 5:
                self.is_under_way.set()


def words_only(fleet: Fleet) -> dict[str, int]:
    """A bias that leaves whole words only: such a text can be cut into tokens in one way."""
    words = json.loads((fleet.model / "tokenizer.json").read_text())["model"]["vocab"]
    return {str(number): 100 for word, number in words.items() if re.fullmatch("Ġ[a-z]+", word)}


def bodies(fleet: Fleet) -> dict[str, tuple[str, dict[str, Any]]]:
    """One of each kind. Those that are continued by their ids print any bytes, parts of characters too."""
    any_bytes = {"sampling_params": GREEDY | {"max_new_tokens": TOKENS}}
    openai = OPENAI | {"max_tokens": TOKENS}
    words = openai | {"logit_bias": words_only(fleet)}
    usage = {"stream_options": {"include_usage": True}}
    chat = [{"role": "user", "content": PROMPTS[0]}]
    return {
        "text": ("/generate", {"text": PROMPTS[2], **any_bytes}),
        "other text": ("/generate", {"text": PROMPTS[3], **any_bytes}),
        "ids": ("/generate", {"input_ids": [405, 395, 300], **any_bytes}),
        "log probabilities": ("/generate", {"text": PROMPTS[0], "return_logprob": True, **any_bytes}),
        "completion with ids": (COMPLETIONS, {**openai, "prompt": PROMPTS[1], "return_token_ids": True}),
        "completion": (COMPLETIONS, {**words, **usage, "prompt": PROMPTS[1]}),
        "chat": (CHAT, {**words, **usage, "messages": chat}),
    }


async def test_streams_of_every_kind_go_on_elsewhere_when_their_decode_is_killed(
    fleet: Fleet, http: aiohttp.ClientSession
) -> None:
    asked = bodies(fleet)
    wanted = {name: await events(http, fleet.plain.url, *one) for name, one in asked.items()}
    tellings = {name: Telling(*one) for name, one in asked.items()}
    prefill, (victim, heir) = fleet.prefills[0], fleet.decodes
    lives = victim.lives
    with fleet.another_proxy([(prefill.url, prefill.bootstrap_port)], [victim]) as proxy:
        await until_ready(proxy, http, 2)
        async with asyncio.TaskGroup() as tasks:
            for one in tellings.values():
                tasks.create_task(one.listen(http, proxy))
            for one in tellings.values():
                await one.is_under_way.wait()
            # Only now, so that all of them run at the one that dies.
            added = {"url": heir.url, "worker_type": "decode"}
            async with http.post(proxy + "/workers", json=added) as answer:
                assert answer.status == 202, await answer.text()
            victim.kill_engine()
        continued = await metric(http, proxy, "pd_continuations_total")
    assert sum(continued.values()) == len(asked)
    assert '{kind="refused"}' not in continued
    assert continued['{kind="exact"}'] >= 5
    for name, one in tellings.items():
        assert streamed_text(one.path, one.found) == streamed_text(one.path, wanted[name]), name
        assert same_end(one, wanted[name]), name
    await asyncio.to_thread(victim.wait_ready, lives + 1)


def same_end(one: Telling, wanted: list[Any]) -> bool:
    """What is told with the last events: ids, counts, the reason."""
    found = one.found
    if one.path == "/generate":
        meta, theirs = found[-1]["meta_info"], wanted[-1]["meta_info"]
        names = {"finish_reason", "prompt_tokens", "completion_tokens", "output_token_logprobs_length"}
        tokens = [[entry[1] for entry in m.get("output_token_logprobs", [])] for m in (meta, theirs)]
        return (
            found[-1]["output_ids"] == wanted[-1]["output_ids"]
            and {name: meta.get(name) for name in names} == {name: theirs.get(name) for name in names}
            and tokens[0] == tokens[1]
        )
    ends = [[c["finish_reason"] for e in told for c in e["choices"]][-1] for told in (found, wanted)]
    ids = [
        [i for e in told for c in e["choices"] for i in c.get("token_ids", [])] for told in (found, wanted)
    ]
    usages = [told[-1].get("usage") for told in (found, wanted)]
    return ends[0] == ends[1] == "length" and ids[0] == ids[1] and usages[0] == usages[1]
