"""A pair chosen for one attempt, and its place in the books."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from proxy.routing.member import Member

if TYPE_CHECKING:
    from proxy.routing.pool import Pool

Edge = tuple[str, str]
"""Worker ids of a prefill and a decode."""


class Placement:
    """Counts on both workers from its birth; each side is given back once, whoever calls twice.

    Prefill is busy until its leg ends, decode until the stream ends, so they go separately.
    """

    __slots__ = (
        "_holds_decode",
        "_holds_prefill",
        "_pool",
        "chosen_at",
        "decode",
        "decode_permit",
        "edge",
        "edge_permit",
        "prefill",
        "prefill_permit",
        "settled",
    )

    def __init__(self, prefill: Member, decode: Member, pool: Pool, now: float) -> None:
        self.prefill = prefill
        self.decode = decode
        self._pool = pool
        self.chosen_at = now
        """Monotonic seconds."""
        self._holds_prefill = self._holds_decode = True
        self.settled = False
        """Whether the pool has been told what the attempt proved; a trial waits for that."""
        prefill.in_flight += 1
        decode.in_flight += 1
        self.edge: Edge = (prefill.worker.worker_id, decode.worker.worker_id)
        """The worker ids of prefill and decode."""
        ours, theirs = prefill.breaker, decode.breaker
        # Nearly always closed: a call saved, on the way of every request.
        self.prefill_permit = ours.epoch if ours.closed else ours.permit(now)
        self.decode_permit = theirs.epoch if theirs.closed else theirs.permit(now)
        self.edge_permit = pool.edge_permit(self.edge, now)

    def prefill_peers(self) -> Sequence[Member]:
        """The prefills of this model that are fit, its own among them."""
        return self._pool.prefills_beside(self.prefill)

    def release_prefill(self) -> None:
        """The prefill leg has ended."""
        if self._holds_prefill:
            self._holds_prefill = False
            self.prefill.in_flight -= 1
            if self.prefill.cap is not None:
                self._pool.freed(self.prefill)

    def release_decode(self) -> None:
        """The decode leg has ended."""
        if self._holds_decode:
            self._holds_decode = False
            self.decode.in_flight -= 1
            if self.decode.cap is not None:
                self._pool.freed(self.decode)

    def release(self) -> None:
        """Both."""
        self.release_prefill()
        self.release_decode()
