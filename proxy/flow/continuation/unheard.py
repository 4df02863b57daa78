"""Text that a second part shows again, for its tokens lie beyond the seam."""

from __future__ import annotations


class Unheard:
    """Leaves out of new texts what their client has been shown before."""

    def __init__(self, beyond: str) -> None:
        """`beyond`: what was shown beyond the seam."""
        self._beyond = beyond
        self._again = ""

    def of(self, new: str) -> str:
        """What of a text is to be shown."""
        beyond = self._beyond
        if not beyond:
            return new
        self._again += new
        if beyond.startswith(self._again):
            if self._again == beyond:
                self._beyond = ""
            return ""
        self._beyond = ""
        return self._again.removeprefix(beyond)
