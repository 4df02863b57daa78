"""What a continuation remembers of real SGLang's streams, byte by byte as they were recorded."""

from __future__ import annotations

import pytest

from proxy.flow.continuation.account import GenerateAccount, OpenAIAccount
from tests.contract.engine_client import CAPTURES, capture

_FAILED = ("bad_", "queue_full", "wrong_port")
STREAMS = sorted(
    path.stem for path in CAPTURES.glob("*_stream.raw") if not any(word in path.stem for word in _FAILED)
)
GENERATED = [name for name in STREAMS if "generate" in name and "batch" not in name]
CHOSEN = [name for name in STREAMS if ("chat" in name or "completions" in name) and "choices" not in name]


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_stream_is_understood(name: str) -> None:
    answer, account = capture(name), GenerateAccount()
    for event in answer.body.split(b"\n\n"):
        account.read(event + b"\n\n")
    last = answer.events[-1]
    assert account.obstacle is None
    assert account.finished
    assert account.text == last["text"]
    assert account.ids is not None
    assert account.ids.tolist() == last["output_ids"]
    assert account.told == last["meta_info"]["completion_tokens"]


@pytest.mark.parametrize("name", CHOSEN)
def test_a_stream_of_choices_is_understood(name: str) -> None:
    answer, account = capture(name), OpenAIAccount()
    for event in answer.body.split(b"\n\n"):
        account.read(event + b"\n\n")
    choices = [choice for event in answer.events for choice in event["choices"]]
    assert account.finished
    assert account.text == "".join(
        choice["text"] if "text" in choice else choice["delta"].get("content") or "" for choice in choices
    )
    says_more = any(
        choice.get("delta", {}).get("tool_calls") or choice.get("delta", {}).get("reasoning_content")
        for choice in choices
    )
    assert (account.obstacle is not None) == says_more
