"""What the end of an event's text says of the tokens that the event tells.

While the text of its newest tokens ends with an incomplete character, SGLang shows of it what lies up to the
last space, or up to a Chinese character that stands at the end. So a text that ends otherwise shows all of
its tokens, and they are whole.
"""

from __future__ import annotations

import re

# As SGLang's find_printable_text has them: Kana and Hangul are not among them.
_FIRST_CHINESE = "\u3400"
_CHINESE = re.compile(
    "[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
    "\U0002b820-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f]"
).match


def may_lack_more(text: str) -> bool:
    """Whether tokens told with a text that ends so, or shortly before it, may not be shown in full."""
    last = text[-1]
    return last == " " or (last >= _FIRST_CHINESE and _CHINESE(last) is not None)


class Whole:
    """Where in a stream the text shown and the tokens told are surely, or likely, the same."""

    __slots__ = ("likely", "sure")

    def __init__(self) -> None:
        self.sure = (0, 0)
        """Tokens and characters up to the last such place."""
        self.likely = (0, 0)
        """Likewise, if a single token that ends with a Chinese character is taken for whole.

        Few tokens of any vocabulary hold the end of a character and a part of the next.
        """

    def shown(self, text: str, tokens: int, place: tuple[int, int]) -> None:
        """An event has shown a text.

        Args:
            text: at least one character.
            tokens: how many the event told.
            place: tokens and characters up to its end.
        """
        if not may_lack_more(text):
            self.sure = self.likely = place
        elif tokens == 1 and not text.endswith(" "):
            self.likely = place
