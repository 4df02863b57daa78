"""How many bytes of requests and answers are held in all: the bound on the proxy's memory."""

from __future__ import annotations

from proxy.errors import Overloaded

_ROOMY = 64  # why: by default 64 MiB, a thousand streams that keep 64 KiB each


class Ledger:
    """Counts bytes held; refuses beyond its limit."""

    __slots__ = ("held_bytes", "limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0

    @property
    def roomy(self) -> bool:
        """Whether so little is held that more may be held for speed alone."""
        return self.held_bytes * _ROOMY < self.limit_bytes

    def take(self, size_bytes: int) -> None:
        """Counts bytes in.

        Raises:
            Overloaded: that would be too many; nothing was counted.
        """
        if self.held_bytes + size_bytes > self.limit_bytes:
            raise Overloaded(
                f"the proxy holds {self.held_bytes} bytes of requests and answers; {size_bytes} more do "
                f"not fit into {self.limit_bytes} (setting limits.held_bytes)",
                retry_after_s=5,
            )
        self.held_bytes += size_bytes

    def give(self, size_bytes: int) -> None:
        """Counts bytes out."""
        self.held_bytes -= size_bytes
