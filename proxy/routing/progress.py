"""What a worker has got done of late."""

from __future__ import annotations


class Progress:
    """The requests that a worker has done its part of: a prefill all of it, a decode the first token."""

    __slots__ = ("last_at", "newest_sent_at")

    def __init__(self) -> None:
        self.last_at = float("-inf")
        """When it did the last one. Both are monotonic seconds."""
        self.newest_sent_at = float("-inf")
        """When the newest of them was sent."""

    def note(self, sent_at: float, now: float) -> None:
        """It has done one."""
        self.last_at = now
        if sent_at > self.newest_sent_at:
            self.newest_sent_at = sent_at
