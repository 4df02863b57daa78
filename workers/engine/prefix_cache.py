"""Which prompts' beginnings a prefill has computed before, page by page, least recently used out first."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from hashlib import blake2b


class PrefixCache:
    """Bounded by tokens. A page is known by the hash of all tokens up to its end."""

    def __init__(self, capacity_tokens: int, page_size: int) -> None:
        self._page = page_size
        self._capacity_pages = capacity_tokens // page_size
        self._pages: OrderedDict[bytes, None] = OrderedDict()
        self.hit_tokens = 0
        self.seen_tokens = 0

    def flush(self) -> None:
        """Forgets all."""
        self._pages.clear()

    def visit(self, ids: list[int]) -> int:
        """Remembers `ids`.

        Returns:
            How many of its tokens were known; the last one never is, for it must be computed.
        """
        self.seen_tokens += len(ids)
        if not self._capacity_pages:
            return 0
        running, known, unbroken = blake2b(digest_size=12), 0, True
        for start in range(0, len(ids) - self._page + 1, self._page):
            running.update(array("q", ids[start : start + self._page]).tobytes())
            key = running.digest()
            unbroken = unbroken and key in self._pages
            known += self._page if unbroken else 0
            self._pages[key] = None
            self._pages.move_to_end(key)
        while len(self._pages) > self._capacity_pages:
            self._pages.popitem(last=False)
        known = min(known, max(len(ids) - 1, 0))
        self.hit_tokens += known
        return known
