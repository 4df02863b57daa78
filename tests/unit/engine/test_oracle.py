from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engine.oracle import EOS_ID, Detokenizer, Model, completion, detokenize, printable, tokenize

SPLITTING = Model(split_characters=True)


@pytest.mark.parametrize("model", [Model(), SPLITTING])
@given(prompt=st.text(max_size=30), cut=st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_what_was_printed_continues_exactly(model: Model, prompt: str, cut: int) -> None:
    whole = completion(prompt, 30, model)
    rest = completion(tokenize(prompt) + list(whole.ids[:cut]), 30 - cut, model)
    assert whole.ids[cut:] == rest.ids


@given(prompt=st.text(max_size=30))
@settings(max_examples=60, deadline=None)
def test_printed_text_reads_back_as_the_same_tokens_unless_a_character_is_half_done(prompt: str) -> None:
    whole = completion(prompt, 30, SPLITTING)
    done = detokenize(whole.ids)
    if not done.endswith("\ufffd"):
        assert tokenize(prompt + done) == tokenize(prompt) + list(whole.ids)


@given(text=st.text(max_size=60))
def test_text_survives_the_tokenizer(text: str) -> None:
    assert detokenize(tokenize(text)) == text


def test_characters_are_split_only_on_wish() -> None:
    assert "" in completion("a prompt", 200, SPLITTING).texts
    assert "" not in completion("a prompt", 200).texts


def test_a_half_character_is_held_back_until_it_is_whole() -> None:
    shown = Detokenizer()
    assert [shown.push(byte) for byte in "€".encode()] == ["", "", "€"]
    shown.push("€".encode()[0])
    assert shown.finish() == "\ufffd"


@pytest.mark.parametrize(
    ("text", "shown"), [("a b", "a "), ("a ", "a "), ("ab", ""), ("a 東", "a 東"), ("a ー", "a "), ("", "")]
)
def test_in_front_of_a_half_character_a_stream_shows_whole_words(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_one_changed_token_changes_what_follows() -> None:
    assert completion([1, 2, 3], 20).ids != completion([1, 2, 4], 20).ids


def test_outputs_end_by_themselves_only_if_the_model_says_so() -> None:
    model = Model(mean_output_tokens=10)
    assert completion("x", 500, model).ids[-1] == EOS_ID
    assert len(completion("x", 500, model, ignore_eos=True).ids) == 500
    assert EOS_ID not in completion("x", 500).ids
