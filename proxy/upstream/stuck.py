"""Requests that SGLang has lost: their workers go on, or one of them stands still, and says nothing of it.

Seen on a real pair: a handshake lost under load, where prefill waited for decode and decode for the transfer;
and a Mooncake engine whose transfers all stopped, of a prefill that answered every probe. SGLang ends both by
its own limits, of 5 to 20 minutes.
"""

from __future__ import annotations

from proxy.routing.placement import Placement

_BYTES_PER_S = 10_000  # why: 2,500 tokens a second; a long prompt may rightly take its time


def is_stuck(placement: Placement, sent_at: float, size_bytes: int, now: float, limit_s: float) -> bool:
    """Whether a request that waits for prefill is better tried elsewhere.

    In a fleet whose decodes are full everybody waits, and rightly. So others must have gone past it: at both
    of its workers, and by `limit_s`; or else prefill has answered nobody for so long, while its decode has
    answered newer ones, or another prefill has.

    Args:
        placement: where it waits.
        sent_at: when it was sent. All times are monotonic seconds.
        size_bytes: of its body.
        now: the present.
        limit_s: how long it may wait; longer for a long prompt.
    """
    limit_s += size_bytes / _BYTES_PER_S
    if now - sent_at <= limit_s:
        return False
    prefill, decode = placement.prefill.progress, placement.decode.progress
    if now - prefill.last_at > limit_s:
        others = (one.progress for one in placement.prefill_peers())
        return decode.newest_sent_at > sent_at or any(one.newest_sent_at > sent_at for one in others)
    return min(prefill.newest_sent_at, decode.newest_sent_at) - sent_at > limit_s
