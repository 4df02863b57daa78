"""A part that was streamed in one form, put into the other."""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from proxy.flow.continuation.closing import OUTPUT_LISTS
from proxy.flow.continuation.form import Form
from proxy.flow.events import as_object, decode_object, encode, raw

# A token that shows nothing is a part of a character; the same token twice in a row looks like a whole.
TOKENS = [("", 3), ("é", 4), ("one", 1), ("", 3), ("é", 4), (" a", 5), (" a", 5), (" a", 5), (" end", 6)]
NAME, OTHER, _ = OUTPUT_LISTS


def events(ends: list[int], *, cumulative: bool, whole: bool, ids: bool = True) -> list[dict[str, Any]]:
    """The events of a stream, each up to one of `ends`, in a form."""
    made = []
    for start, end in zip([0, *ends], ends, strict=False):
        first, first_listed = (0 if cumulative else start), (0 if cumulative or whole else start)
        told: dict[str, Any] = {
            "text": "".join(text for text, _ in TOKENS[first:end]),
            "meta_info": {
                "completion_tokens": end,
                NAME: [[-0.5, number] for _, number in TOKENS[first_listed:end]],
                OTHER: [[number] for _, number in TOKENS[first_listed:end]],
            },
        }
        if ids:
            told["output_ids"] = [number for _, number in TOKENS[first:end]]
        made.append(told)
    return made


def turned(form: Form, told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for one in told:
        event = decode_object(encode(one))
        meta = as_object(event["meta_info"])
        assert meta is not None
        form.turn(event, meta)
        found.append(json.loads(encode({**event, "meta_info": raw(meta)})))
    return found


sizes = some.lists(some.integers(1, 3), min_size=1, max_size=len(TOKENS)).map(
    lambda found: [end for end in accumulate(found) if end <= len(TOKENS)]
)
forms = some.tuples(some.booleans(), some.booleans())


@given(sizes, forms, forms)
def test_every_form_can_be_put_into_every_other(
    ends: list[int], theirs: tuple[bool, bool], wanted: tuple[bool, bool]
) -> None:
    lists = OUTPUT_LISTS if wanted[1] else ()
    came = events(ends, cumulative=theirs[0], whole=theirs[1])
    first = came[0]
    right = [first, *events(ends, cumulative=wanted[0], whole=wanted[1])[1:]]
    assert turned(Form(wanted[0], lists), came) == right


@pytest.mark.parametrize("cumulative", [True, False])
def test_without_ids_the_text_tells_the_form(cumulative: bool) -> None:
    ends = [2, 3, 5, 9]
    came = events(ends, cumulative=not cumulative, whole=False, ids=False)
    assert turned(Form(cumulative, ()), came) == events(ends, cumulative=cumulative, whole=False, ids=False)
