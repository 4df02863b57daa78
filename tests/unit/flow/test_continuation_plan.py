"""From what was asked and what was said to the request that goes on."""

from __future__ import annotations

from array import array
from typing import Any

import msgspec
import pytest

from proxy.flow.continuation.account import GenerateAccount, OpenAIAccount
from proxy.flow.continuation.asked import Asked, Dialect, read_asked
from proxy.flow.continuation.plan import Kind, Known, Refusal, plan, shown_text
from proxy.upstream.order import Order

encode, decode = msgspec.json.encode, msgspec.json.decode


def asked_for(body: Any, *, generate: bool = True, overrides: bytes = b"") -> Asked:
    raw = encode(body)
    return read_asked(Order(b"", b"", raw, raw.rfind(b"}"), overrides, generate, True, False, True, False))


def said(text: str, ids: list[int] | None = None) -> GenerateAccount:
    account = GenerateAccount()
    account.text, account.ids = text, None if ids is None else array("i", ids)
    account.seam = account.told = len(ids or [])
    return account


def said_openai(text: str) -> OpenAIAccount:
    account = OpenAIAccount()
    account.text = text
    return account


def made(asked: Asked, account: Any, generated: int, known: Known | None = None) -> tuple[Kind, Any]:
    found = plan(asked, account, generated, known or Known())
    return found.kind, decode(found.body)


def test_ids_go_on_behind_ids() -> None:
    body = {"input_ids": [1, 2], "logprob_start_len": 0, "sampling_params": {"max_new_tokens": 9}}
    assert made(asked_for(body), said("ab", [3, 4]), 2) == (
        Kind.EXACT,
        {"input_ids": [1, 2, 3, 4], "sampling_params": {"max_new_tokens": 7}},
    )


def test_a_text_goes_on_by_ids_where_they_are_known() -> None:
    kind, body = made(asked_for({"text": "x"}), said("ab", [3, 4]), 1, Known(prompt_ids=[1]))
    assert (kind, body["input_ids"], "text" in body) == (Kind.EXACT, [1, 3], False)


def test_a_text_goes_on_as_text_where_they_are_not() -> None:
    kind, body = made(asked_for({"text": "x"}), said("ab", [3, 4]), 2)
    assert (kind, body) == (Kind.APPROXIMATE, {"text": "xab", "sampling_params": {"max_new_tokens": 126}})


def test_limits_are_lowered_and_never_to_nothing() -> None:
    asked = asked_for({"text": "x", "sampling_params": {"max_new_tokens": 3, "min_new_tokens": 2}})
    assert asked.left(2) == 1
    assert decode(encode(asked.lowered(2))) == {"max_new_tokens": 1, "min_new_tokens": 0}
    assert asked.left(3) == 0


@pytest.mark.parametrize(
    ("body", "left"),
    [({"prompt": "x"}, 14), ({"prompt": "x", "max_tokens": 5}, 3), ({"messages": []}, None)],
)
def test_what_is_left_counts_from_the_limit_or_the_routes_own(body: Any, left: int | None) -> None:
    assert asked_for(body, generate=False).left(2) == left


def test_both_limits_of_a_chat_are_lowered() -> None:
    asked = asked_for({"messages": [], "max_tokens": 9, "max_completion_tokens": 8}, generate=False)
    lowered = decode(encode(asked.lowered(3)))
    assert (lowered["max_tokens"], lowered["max_completion_tokens"]) == (6, 5)


def test_no_limit_stays_no_limit() -> None:
    asked = asked_for({"text": "x", "sampling_params": {"max_new_tokens": None}})
    assert asked.left(5) is None
    assert decode(encode(asked.lowered(5))) == {"max_new_tokens": None}


def test_a_chat_goes_on_with_the_message_that_was_begun() -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
    kind, onward = made(asked_for(body, generate=False), said_openai("hel"), 1)
    assert kind is Kind.APPROXIMATE
    assert onward["messages"][-1] == {"role": "assistant", "content": "hel"}
    assert (onward["continue_final_message"], onward["max_tokens"]) == (True, 8)


def test_a_message_that_the_client_itself_had_begun_is_gone_on_with() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Well, "}]
    body = {"messages": messages, "continue_final_message": True}
    _, onward = made(asked_for(body, generate=False), said_openai("hel"), 1)
    assert onward["messages"] == [messages[0], {"role": "assistant", "content": "Well, hel"}]


def test_a_completion_of_ids_goes_on_by_the_ids_of_its_text_or_not_at_all() -> None:
    asked = asked_for({"prompt": [1, 2], "max_tokens": 9}, generate=False)
    kind, onward = made(asked, said_openai("ab"), 2, Known(text_ids=[5, 6]))
    assert (kind, onward["prompt"]) == (Kind.APPROXIMATE, [1, 2, 5, 6])
    with pytest.raises(Refusal, match="ids of the generated text"):
        plan(asked, said_openai("ab"), 2, Known())


def test_an_echoed_prompt_is_no_part_of_what_was_generated() -> None:
    asked = asked_for({"prompt": "once", "echo": True}, generate=False)
    assert shown_text(asked, said_openai("once upon")) == " upon"
    _, onward = made(asked, said_openai("once upon"), 1)
    assert (onward["prompt"], "echo" in onward) == ("once upon", False)
    with pytest.raises(Refusal):
        shown_text(asked_for({"prompt": [1], "echo": True}, generate=False), said_openai("x"))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"text": ["a", "b"]}, "a batch"),
        ({"input_ids": [[1], [2]]}, "a batch"),
        ({"text": "a", "sampling_params": {"regex": "x"}}, "guided decoding (regex)"),
        ({"text": "a", "sampling_params": {"stop_regex": "x"}}, "stop_regex"),
        ({"text": "a", "session_params": {"id": 1}}, "session_params"),
        ({"text": "a", "return_hidden_states": True}, "return_hidden_states"),
        ({"text": "a", "return_hidden_states": False}, None),
        ({"text": "a", "sampling_params": {"regex": None, "json_schema": ""}}, None),
    ],
)
def test_what_generate_is_asked_for_may_forbid_it(body: Any, why: str | None) -> None:
    assert asked_for(body).forbids == why


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"prompt": ["a"]}, "a batch"),
        ({"prompt": [1, 2]}, None),
        ({"prompt": "a", "suffix": "z"}, "suffix"),
        ({"messages": [], "response_format": {"type": "text"}}, None),
        ({"messages": [], "response_format": {"type": "json_object"}}, "guided decoding (response_format)"),
        ({"messages": [], "tool_choice": "auto"}, None),
        ({"messages": [], "tool_choice": {"type": "function"}}, "guided decoding (tool_choice)"),
    ],
)
def test_what_openais_routes_are_asked_for_may_forbid_it(body: Any, why: str | None) -> None:
    assert asked_for(body, generate=False).forbids == why


def test_a_branch_of_n_answers_is_read_as_what_it_is() -> None:
    asked = asked_for({"prompt": "a", "n": 3}, generate=False, overrides=b',"n":1')
    assert asked.dialect is Dialect.COMPLETION
    assert decode(encode(asked.members))["n"] == 1
