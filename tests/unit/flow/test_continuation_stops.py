"""A stop string is found where no engine alone could see it, and only there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.flow.continuation.stops import StopWatch

letters = st.text("ab", max_size=8)


@given(letters, letters, st.text("ab", min_size=1, max_size=4))
def test_it_is_found_if_and_only_if_it_begins_before_the_seam_and_ends_behind_it(
    before: str, new: str, stop: str
) -> None:
    whole = before + new
    across = [
        at for at in range(len(before)) if whole.startswith(stop, at) and at < len(before) < at + len(stop)
    ]
    found = StopWatch((stop,), before).found(new)
    assert (found.kept if found else None) == (across[0] if across else None)


def test_the_text_may_come_letter_by_letter() -> None:
    watch = StopWatch(("never", "END OF"), "the EN")
    assert [watch.found("D OF it"[:size]) is not None for size in range(6)] == [False] * 4 + [True] * 2


def test_without_stop_strings_nothing_is_found() -> None:
    assert StopWatch((), "abc").found("abc") is None
