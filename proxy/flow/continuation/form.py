"""The form in which workers of one model stream /generate may differ: a second part is put into the first's.

SGLang tells all so far in each event, or with `--stream-output` (0.5.2) or `--incremental-streaming-output`
(0.5.23) only what is new. Log probabilities are told as a whole in the one and for the new tokens in the
other; that a version may tell them as a whole in either is provided for.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from proxy.flow.continuation.asked import TEXT, decoded
from proxy.flow.continuation.closing import OUTPUT_LISTS
from proxy.flow.events import Members, as_array, raw, whole_number


class Form:
    """Rewrites the events of one part as the part before it was told."""

    def __init__(self, cumulative: bool, whole_lists: Collection[str]) -> None:
        """Makes one.

        Args:
            cumulative: whether the events of the part before tell all so far.
            whole_lists: which of its lists did, where its events did not.
        """
        self._cumulative = cumulative
        self._whole_lists = frozenset(OUTPUT_LISTS if cumulative else whole_lists)
        self._first = True
        self._theirs: bool | None = None
        self._alike = False
        self._text = ""
        self._ids: list[msgspec.Raw] = []
        self._lists: dict[str, list[msgspec.Raw]] = {}

    def turn(self, event: Members, meta: Members) -> None:
        """One event, in order; `meta` is its meta_info. The first looks the same in every form."""
        if self._alike:
            return
        text, ids = decoded(event, "text", TEXT) or "", as_array(event.get("output_ids"))
        lists = {name: as_array(meta[name]) for name in OUTPUT_LISTS if name in meta}
        if self._first:
            self._first = False
            self._text, self._ids, self._lists = text, ids, lists
            return
        tokens = whole_number(meta.get("completion_tokens"))
        whole = {name for name, told in lists.items() if len(told) == tokens}
        if self._theirs is None:
            self._theirs = len(ids) == tokens if "output_ids" in event else text.startswith(self._text)
            if self._theirs is self._cumulative and whole == self._whole_lists & lists.keys():
                self._alike = True
                return
        for name, told in lists.items():
            meta[name] = raw(self._list(name, told, name in whole))
        if self._theirs:
            new, new_ids = text[len(self._text) :], ids[len(self._ids) :]
            self._text, self._ids = text, ids
        else:
            new, new_ids = text, ids
            self._text += text
            self._ids = [*self._ids, *ids]
        event["text"] = raw(self._text if self._cumulative else new)
        if "output_ids" in event:
            event["output_ids"] = raw(self._ids if self._cumulative else new_ids)

    def _list(self, name: str, told: list[msgspec.Raw], whole: bool) -> list[msgspec.Raw]:
        before = self._lists.get(name, [])
        new = told[len(before) :] if whole else told
        self._lists[name] = [*before, *new]
        return self._lists[name] if name in self._whole_lists else new
