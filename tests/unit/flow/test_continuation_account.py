"""What an account knows of a stream, whatever its form and however it was read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from proxy.flow.continuation.account import GenerateAccount, OpenAIAccount

encode = msgspec.json.encode


def generated(text: str, ids: list[int] | None, count: int, reason: Any = None, **more: Any) -> bytes:
    meta = {"id": "r", "finish_reason": reason, "prompt_tokens": 7, "completion_tokens": count}
    said = {"text": text, "output_ids": ids, "meta_info": meta, **more}
    return b"data: " + encode({name: value for name, value in said.items() if value is not None}) + b"\n\n"


def chunk(delta: Any = None, text: str | None = None, usage: Any = None, **choice: Any) -> bytes:
    made = {"index": 0, "finish_reason": None, **choice}
    made |= {"delta": delta} if text is None else {"text": text}
    body = {"id": "r", "created": 1, "model": "m", "choices": [made], "usage": usage}
    return b"data: " + encode(body) + b"\n\n"


def framed(*events: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)


CUMULATIVE = [generated("a", [1], 1), generated("a", [1, 2], 2), generated("aé", [1, 2, 3], 3)]
DISJOINT = [generated("a", [1], 1), generated("", [2], 2), generated("é", [3], 3)]


@pytest.mark.parametrize("events", [CUMULATIVE, DISJOINT], ids=["cumulative", "disjoint"])
@pytest.mark.parametrize("way", [b"".join, lambda events: framed(*events)], ids=["plain", "framed"])
def test_both_forms_of_generate_tell_the_same(events: list[bytes], way: Any) -> None:
    account = GenerateAccount()
    account.read(way(events))
    assert account.ids is not None
    assert (account.text, account.ids.tolist(), account.seam, account.told) == ("aé", [1, 2, 3], 3, 3)
    assert account.cumulative is (events is CUMULATIVE)
    assert (account.prompt_tokens, account.finished, account.obstacle) == (7, False, None)


@pytest.mark.parametrize("events", [CUMULATIVE, DISJOINT], ids=["cumulative", "disjoint"])
def test_tokens_without_text_lie_beyond_the_seam(events: list[bytes]) -> None:
    account = GenerateAccount()
    account.read(b"".join(events[:2]))
    assert (account.seam, account.told) == (1, 2)


def test_what_was_folded_before_counts() -> None:
    account = GenerateAccount()
    for event in DISJOINT:
        account.read(event)
    assert account.text == "aé"


def test_a_stream_without_ids_has_none() -> None:
    account = GenerateAccount()
    account.read(generated("a", None, 1) + generated("ab", None, 2))
    assert (account.ids, account.text, account.told, account.cumulative) == (None, "ab", 2, True)


def test_a_finish_reason_is_the_end() -> None:
    account = GenerateAccount()
    account.read(generated("a", [1], 1, {"type": "length", "length": 1}))
    assert account.finished


@pytest.mark.parametrize(
    ("event", "obstacle"),
    [
        (generated("a", [1], 1, index=0), "a batch"),
        (b"data: {}\n\n", "an event of unknown shape"),
        (generated("a", [1 << 40], 1), "an event of unknown shape"),
        (generated("a", [1 << 80], 1), "an event of unknown shape"),
    ],
)
def test_generate_tells_what_stands_in_the_way(event: bytes, obstacle: str) -> None:
    account = GenerateAccount()
    account.read(event)
    assert account.obstacle == obstacle


@pytest.mark.parametrize(
    ("delta", "obstacle"),
    [
        ({"reasoning_content": "well"}, "reasoning content"),
        ({"tool_calls": [{"index": 0}]}, "a tool call"),
        ({"reasoning_content": None, "content": "a"}, None),
    ],
)
def test_a_chat_tells_what_stands_in_the_way(delta: Any, obstacle: str | None) -> None:
    account = OpenAIAccount()
    account.read(chunk(delta))
    assert account.obstacle == obstacle


def test_a_chat_counts_events_with_text_and_says_that_it_guesses() -> None:
    account = OpenAIAccount()
    account.read(
        chunk({"role": "assistant", "content": ""}) + chunk({"content": "a"}) + chunk({"content": "b"})
    )
    assert (account.text, account.told, account.counted) == ("ab", 2, False)


@pytest.mark.parametrize(
    "more",
    [
        {"token_ids": [5, 6]},
        {"logprobs": {"tokens": ["a", "b"], "token_logprobs": [0, 0]}},
    ],
)
def test_a_completion_counts_what_it_is_told(more: Any) -> None:
    account = OpenAIAccount()
    account.read(chunk(text="ab", **more) + chunk(text="", **more))
    assert (account.seam, account.told, account.counted) == (2, 4, True)


def test_ids_count_only_if_all_are_told() -> None:
    account = OpenAIAccount()
    account.read(chunk(text="a") + chunk(text="b", token_ids=[5]))
    assert account.ids is None


def test_usage_told_all_along_is_the_engines_own_count() -> None:
    account = OpenAIAccount()
    account.read(
        chunk({"content": "ab"}, usage={"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11})
    )
    assert (account.prompt_tokens, account.seam, account.counted, account.usage_told) == (9, 2, True, False)


def test_a_chats_log_probabilities_are_no_count_of_its_tokens() -> None:
    account = OpenAIAccount()
    for text in ("one", " two"):
        logprobs = {"content": [{"token": text}]}
        account.read(chunk({"content": text}, logprobs=logprobs))
    assert (account.told, account.counted) == (2, False)
