"""However a stream's events are cut into reads, its account says the same."""

from __future__ import annotations

import json
from itertools import accumulate, pairwise

from hypothesis import given
from hypothesis import strategies as st

from proxy.flow.continuation.account import GenerateAccount

# Texts of the tokens of each event: an empty one is a part of a character.
told_by_events = st.lists(
    st.lists(st.sampled_from(["", " a", "é", '"', "\n", " ", "好", "data: x"]), max_size=3), max_size=12
)
cuts = st.lists(st.integers(0, 12), max_size=4)


def events_of(told: list[list[str]], *, ids: bool, finished: bool) -> list[bytes]:
    counts = list(accumulate(len(texts) for texts in told))
    events = []
    for number, (texts, count) in enumerate(zip(told, counts, strict=True)):
        event = {
            "text": "".join(texts),
            "meta_info": {
                "id": "r",
                "prompt_tokens": 3,
                "completion_tokens": count,
                "finish_reason": {"type": "length"} if finished and number == len(told) - 1 else None,
            },
        }
        if ids:
            event["output_ids"] = list(range(count - len(texts), count))
        events.append(b"data: %b\n\n" % json.dumps(event).encode())
    return events


def read_in(pieces: list[bytes]) -> dict[str, object]:
    account = GenerateAccount()
    account.cumulative = False
    for piece in pieces:
        account.read(piece)
    names = ("text", "seam", "told", "counted", "finished", "obstacle", "last", "size_bytes")
    ids = None if account.ids is None else account.ids.tolist()
    told = {name: getattr(account, name) for name in names}
    return told | {"ids": ids, "sure": account.whole.sure, "likely": account.whole.likely}


@given(told_by_events, cuts, st.booleans(), st.booleans())
def test_reads_of_many_events_tell_what_each_alone_tells(
    told: list[list[str]], where: list[int], ids: bool, finished: bool
) -> None:
    events = events_of(told, ids=ids, finished=finished)
    ends = [0, *sorted(where), len(events)]
    pieces = [b"".join(events[start:end]) for start, end in pairwise(ends)]
    assert read_in(pieces) == read_in(events)
