"""Where in what was shown the text of some tokens ends."""

from __future__ import annotations

import pytest

from proxy.flow.continuation.resumption import size_shown


@pytest.mark.parametrize(
    ("shown", "text", "beyond", "size"),
    [
        ("once upon", "upon", "", 9),
        ("once upon a time", "once", " upon a time", 4),
        # SGLang has shown the space of a character that is not complete.
        ("once upon ", "upon", " \ufffd", 9),
        ("once upon ", "upon \ufffd", "", None),
        ("an \ufffd ", "an \ufffd", " ", None),
        # It has shown more, or something else.
        ("once upon a time", "once", "", None),
        ("23Z! ", "23Z", " \ufffd", None),
        # Some tokenizers drop the space in front of a text.
        (" two", "two", "", 4),
        # Of tokens that nobody knows a tokenizer says nothing.
        ("!!", "", "", None),
        ("b" * 70, "a", "b" * 70, None),
    ],
)
def test_it_ends_where_both_read_the_same_and_never_amid_a_character(
    shown: str, text: str, beyond: str, size: int | None
) -> None:
    assert size_shown(shown, text, text + beyond) == size
