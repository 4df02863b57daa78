"""When a request that waits for prefill is taken for lost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from proxy.routing.placement import Placement
from proxy.routing.progress import Progress
from proxy.upstream.stuck import is_stuck

_NEVER = float("-inf")


def seen(newest_sent_at: float, last_at: float) -> SimpleNamespace:
    progress = Progress()
    progress.newest_sent_at, progress.last_at = newest_sent_at, last_at
    return SimpleNamespace(progress=progress)


_NOBODY, _OTHER = seen(_NEVER, _NEVER), seen(105, 110)


@pytest.mark.parametrize(
    ("prefill", "decode", "other", "stuck"),
    [
        # Both have gone past it by more than the limit.
        (seen(170, 175), seen(170, 175), _NOBODY, True),
        (seen(130, 175), seen(170, 175), _OTHER, False),
        (seen(170, 175), seen(130, 175), _OTHER, False),
        # Prefill answers nobody; its decode does, or another prefill.
        (seen(99, 110), seen(105, 110), _NOBODY, True),
        (_NOBODY, _NOBODY, _OTHER, True),
        (seen(99, 110), seen(100, 175), _OTHER, True),
        # It is still at older ones.
        (seen(99, 150), seen(105, 110), _OTHER, False),
        # All wait.
        (seen(99, 110), seen(100, 175), _NOBODY, False),
        (_NOBODY, _NOBODY, _NOBODY, False),
    ],
)
def test_it_is_lost_if_others_go_past_it(
    prefill: SimpleNamespace, decode: SimpleNamespace, other: SimpleNamespace, stuck: bool
) -> None:
    made = SimpleNamespace(prefill=prefill, decode=decode, prefill_peers=lambda: [prefill, other])
    placement = cast(Placement, made)
    assert is_stuck(placement, 100.0, 1000, 175.0, 60.0) is stuck
    assert not is_stuck(placement, 100.0, 1000, 160.0, 60.0), "not before its time"
    assert not is_stuck(placement, 100.0, 1_000_000, 175.0, 60.0), "a long prompt takes longer"
