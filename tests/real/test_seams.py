"""Wherever a stream breaks, its second part joins the first: thousands of breaks, SGLang's own detokenizer.

The tokens are random: half of them are parts of characters, or nothing that the tokenizer knows. What SGLang
shows of such tokens, and when, decides where a second part must begin.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest

from proxy.flow.continuation.account import GenerateAccount, OpenAIAccount
from proxy.flow.continuation.choice_stitch import ChoiceStitch
from proxy.flow.continuation.resumption import Found, Resumption
from proxy.flow.continuation.stitch import GeneratedStitch
from proxy.flow.continuation.tokenizers import Tokenizers
from proxy.routing.group import Group
from proxy.upstream.order import Order
from tests.real.fleet import PROJECT, installed, sglang_environment

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

TOKENS = 60
STREAMS = 60
VOCABULARY = 512
PROMPT = [405, 395, 300]


class Detokenizer:
    """SGLang's, in SGLang's own interpreter."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.knows = True
        """Whether it answers what a proxy asks."""

    def _ask(self, **question: Any) -> Any:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    def tell(self, prompt: list[int], output: list[int], every: int) -> list[str]:
        """What each event shows."""
        return cast(list[str], self._ask(prompt=prompt, output=output, every=every))

    def said(self, ids: list[int]) -> str:
        """All that they come to."""
        return cast(str, self._ask(said=ids))

    def is_of_two(self, token: int) -> bool:
        """Whether a token holds an end and a beginning."""
        text = self.said([token])
        return len(text) > 1 and text.endswith("\ufffd")

    async def texts(self, group: object, avoid: str, lists: list[list[int]]) -> list[str] | None:
        """As `Tokenizers.texts`."""
        return cast(list[str], self._ask(texts=lists)) if self.knows else None


@pytest.fixture(autouse=True)
def whole() -> None:
    """No fleet: the detokenizer is enough."""


@pytest.fixture(scope="module")
def detokenizer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Detokenizer]:
    root, folder = installed(), tmp_path_factory.mktemp("model")
    python, here = root / "venv" / "bin" / "python", PROJECT / "tests" / "real"
    environment = sglang_environment(root)
    subprocess.run([python, here / "tiny_model.py", folder], check=True, timeout=300, env=environment)
    command = [python, "-W", "ignore", here / "on_cpu" / "detokenizing.py", folder]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Detokenizer(process)
        process.kill()


@dataclass(frozen=True)
class Form:
    """How a stream tells its tokens."""

    name: str
    every: int

    @property
    def generate(self) -> bool:
        return self.name != "completion"

    def body(self, limit: int) -> dict[str, Any]:
        if self.generate:
            return {"input_ids": PROMPT, "sampling_params": {"max_new_tokens": limit}}
        return {"prompt": PROMPT, "max_tokens": limit, "return_token_ids": True}

    def events(self, shown: list[str], ids: list[int]) -> list[bytes]:
        """The data of each event."""
        made, text = [], ""
        for number, new in enumerate(shown, 1):
            count, text = number * self.every, text + new
            some = ids[count - self.every : count]
            if self.generate:
                cumulative = self.name == "cumulative"
                event: dict[str, Any] = {
                    "text": text if cumulative else new,
                    "output_ids": ids[:count] if cumulative else some,
                    "meta_info": {
                        "id": "r",
                        "finish_reason": None,
                        "prompt_tokens": 3,
                        "completion_tokens": count,
                    },
                }
            else:
                choice = {"index": 0, "text": new, "finish_reason": None, "token_ids": some}
                event = {"id": "r", "created": 1, "model": "m", "choices": [choice]}
            made.append(json.dumps(event).encode())
        return made

    def told(self, events: list[bytes]) -> tuple[str, list[int]]:
        """The text and the ids that a client has at last."""
        found = [json.loads(event) for event in events]
        if self.name == "cumulative":
            return found[-1]["text"], found[-1]["output_ids"]
        parts = found if self.generate else [one["choices"][0] for one in found]
        name = "output_ids" if self.generate else "token_ids"
        return "".join(one["text"] for one in parts), [i for one in parts for i in one[name]]


def tells(shown: str, said: str) -> bool:
    """Whether a stream that has not ended tells what it should: all but an unsettled end."""
    return said.startswith(shown.rstrip("\ufffd "))


def ids_of(body: dict[str, Any]) -> list[int]:
    return cast(list[int], body.get("input_ids") or body["prompt"])


def resumed(form: Form, body: dict[str, Any], told: list[bytes], detokenizer: Detokenizer) -> Found:
    """How a stream goes on that has told these events."""
    account: Any = GenerateAccount() if form.generate else OpenAIAccount()
    account.read(b"".join(b"data: %b\n\n" % event for event in told))
    raw = json.dumps(body).encode()
    order = Order(b"", b"", raw, raw.rfind(b"}"), b"", form.generate, True, False, True, False)
    resumption = Resumption(order, account, cast(Tokenizers, detokenizer), cast(Group, None), "d0")
    return asyncio.run(resumption.find(exact_only=True))


FORMS = [Form(name, every) for name in ("cumulative", "disjoint", "completion") for every in (1, 3)]


@pytest.mark.parametrize("knows", [True, False], ids=["asked", "not asked"])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.name}-{form.every}")
def test_wherever_a_stream_breaks_its_second_part_joins_the_first(
    detokenizer: Detokenizer, form: Form, knows: bool
) -> None:
    detokenizer.knows = knows
    rng = random.Random(f"{form}")
    # Without a tokenizer to ask, no token is expected to end a character and to begin another.
    usable = [number for number in range(VOCABULARY) if knows or not detokenizer.is_of_two(number)]
    tried = 0
    for _ in range(STREAMS):
        ids = rng.choices(usable, k=TOKENS)
        said = detokenizer.said(ids)
        plain = form.events(detokenizer.tell(PROMPT, ids, form.every), ids)
        if not tells(form.told(plain)[0], said):
            continue  # SGLang itself tells a character twice if it stands between two incomplete ones
        for cut in range(2, len(plain)):
            found = resumed(form, form.body(TOKENS), plain[:cut], detokenizer)
            assert found.order is not None
            asked = ids_of(json.loads(found.order.body))
            at = len(asked) - len(PROMPT)
            assert asked == PROMPT + ids[:at], "the ids are those that were told"
            shown = detokenizer.tell(asked, ids[at:], form.every)
            if not tells("".join(shown), detokenizer.said(ids)[len(detokenizer.said(ids[:at])) :]):
                continue
            assert isinstance(found.stitch, GeneratedStitch | ChoiceStitch)
            seen = plain[:cut]
            for event in form.events(shown, ids[at:]):
                seen += found.stitch.rewrite(event)
            text, told = form.told(seen)
            assert told == ids[: len(told)]
            assert tells(text, said), (cut, form.told(plain[:cut])[0], text, said)
            tried += 1
    assert tried > STREAMS * TOKENS / form.every / 2
