"""The second part of a stream made to look like more of the first: events in, events out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from proxy.flow.continuation.asked import TEXT, decoded
from proxy.flow.continuation.closing import OUTPUT_LISTS, close_generated
from proxy.flow.continuation.form import Form
from proxy.flow.continuation.seam import Seam
from proxy.flow.continuation.stops import Stop, StopWatch
from proxy.flow.continuation.unheard import Unheard
from proxy.flow.events import (
    END,
    Members,
    all_datas,
    as_array,
    as_object,
    decode_object,
    encode,
    raw,
    whole_number,
)
from proxy.upstream.decode_leg import Sink

_LOGPROBS_TOLD = "output_token_logprobs_length"


class Stitch(Protocol):
    """Rewrites the data of events, one by one."""

    ended: bool
    """Whether the answer has come to its end, which the worker does not know."""

    def rewrite(self, data: bytes) -> list[bytes]:
        """The data of the events that take the place of this one."""


class StitchedSink:
    """Stands between a continuation's worker and the client."""

    def __init__(self, stitch: Stitch, sink: Sink, on_ended: Callable[[], None]) -> None:
        """`on_ended`: called when the answer has ended before its worker knows."""
        self._stitch = stitch
        self._sink = sink
        self._on_ended = on_ended

    def raw(self, data: bytes) -> None:
        """Never: a continuation's order asks for payload."""
        raise AssertionError("a continuation cannot take a worker's own chunks")

    def payload(self, data: bytes) -> None:
        """Whole events."""
        stitch = self._stitch
        if stitch.ended:
            return
        out: list[bytes] = []
        for event in all_datas(data):
            try:
                out += stitch.rewrite(event)
            except (msgspec.DecodeError, RecursionError):
                out.append(event)
            if stitch.ended:
                out.append(END)
                break
        if out:
            self._sink.payload(b"".join([b"data: %b\n\n" % event for event in out]))
        if stitch.ended:
            self._on_ended()


class GeneratedStitch:
    """Of /generate."""

    def __init__(self, seam: Seam) -> None:
        self._seam = seam
        self._watch = StopWatch(seam.stops, seam.text)
        self._cumulative = seam.cumulative
        self._form = None if seam.cumulative is None else Form(seam.cumulative, seam.lists)
        self._lists = seam.lists
        self._again = seam.again
        self._unheard = Unheard(seam.beyond)
        self._first: Members | None = None  # held until the form of the stream is known
        self._new = ""
        self._held = ""
        self.ended = False

    def rewrite(self, data: bytes) -> list[bytes]:
        """One event, or the end."""
        if data == END:
            return [*self._flush(), data]
        event = decode_object(data)
        meta = as_object(event.get("meta_info"))
        if meta is None:
            return [*self._flush(), data]
        if self._form is not None:
            self._form.turn(event, meta)
        elif self._cumulative is None:
            if self._first is None and not _ends(meta):
                self._first = event
                return []
            self._decide(event, meta)
        return [*self._flush(), *self._told(event, meta)]

    def _decide(self, event: Members, meta: Members) -> None:
        """The second event tells the form; without one both forms look the same but for what was before."""
        tokens, ids = whole_number(meta.get("completion_tokens")), as_array(event.get("output_ids"))
        self._cumulative = self._first is None or len(ids) == tokens
        if not self._cumulative:
            told = [as_array(meta[name]) for name in OUTPUT_LISTS if name in meta]
            if any(len(one) == len(ids) for one in told):
                self._lists = {}

    def _flush(self) -> list[bytes]:
        first, self._first = self._first, None
        if first is None:
            return []
        if self._cumulative is None:
            self._cumulative = True
        return self._told(first, as_object(first.get("meta_info")) or {})

    def _told(self, event: Members, meta: Members) -> list[bytes]:
        seam = self._seam
        new = decoded(event, "text", TEXT) or ""
        tokens = whole_number(meta.get("completion_tokens"))
        total = seam.generated + tokens
        # Tokens that were told before tell nothing; what they show beyond that comes with the next ones.
        silent = seam.again >= max(tokens, 1) and not _ends(meta)
        self._rewrite_meta(meta, total)
        if self._cumulative:
            self._new = new
            known = seam.beyond.startswith(new) and not _ends(meta)
            event["text"] = raw(seam.text + (seam.beyond if known else new))
            if "output_ids" in event:
                event["output_ids"] = _joined(seam.ids, event["output_ids"])
            for name, before in self._lists.items():
                meta[name] = _joined(before, meta.get(name))
        else:
            self._new += new
            new = self._held + self._unheard.of(new)
            self._held = new if silent else ""
            event["text"] = raw(new)
            ids = as_array(event.get("output_ids"))
            again = min(self._again, len(ids) or self._again)
            self._again -= again
            self._cut(event, meta, ids, again, tokens)
        stop = self._watch.found(self._new) if total >= seam.least else None
        if stop is not None:
            return self._stopped({**event, "meta_info": raw(meta)}, stop)
        if silent:
            return []
        return [encode({**event, "meta_info": raw(meta)})]

    def _cut(self, event: Members, meta: Members, ids: list[msgspec.Raw], again: int, tokens: int) -> None:
        if again and ids:
            event["output_ids"] = raw(ids[again:])
        for name in OUTPUT_LISTS:
            if name not in meta:
                continue
            told = as_array(meta[name])
            if name in self._lists:
                meta[name] = _joined(self._lists[name], meta[name])
            elif len(told) < tokens or tokens == len(ids):
                meta[name] = raw(told[again:])

    def _rewrite_meta(self, meta: Members, total: int) -> None:
        before = self._seam.generated
        meta.update(self._seam.identity)
        meta["completion_tokens"] = raw(total)
        if _LOGPROBS_TOLD in meta:
            meta[_LOGPROBS_TOLD] = raw(whole_number(meta[_LOGPROBS_TOLD]) + before)
        reason = as_object(meta.get("finish_reason"))
        if reason is not None and decoded(reason, "type", TEXT) == "length":
            meta["finish_reason"] = raw({**reason, "length": whole_number(reason.get("length")) + before})
        if "weight_versions" in meta:
            versions = [decode_object(one) for one in as_array(meta["weight_versions"])]
            for at, version in enumerate(versions):
                for name in ("start", "end") if at else ("end",):
                    version[name] = raw(whole_number(version.get(name)) + before)
            meta["weight_versions"] = raw(versions)

    def _stopped(self, event: Members, stop: Stop) -> list[bytes]:
        self.ended = True
        reason = {"type": "stop", "matched": stop.string}
        if not self._cumulative:
            return [close_generated(event, reason, None)]
        whole = self._seam.text + self._new
        return [close_generated(event, reason, whole if self._seam.keeps_stop else whole[: stop.kept])]


def _joined(before: bytes, array: msgspec.Raw | None) -> msgspec.Raw:
    """An array with others' insides in front: these grow to megabytes, and are not parsed for it."""
    inside = b"" if array is None else bytes(array).strip()[1:-1].strip()
    return msgspec.Raw(b"[%b%b%b]" % (before, b"," if before and inside else b"", inside))


def _ends(meta: Members) -> bool:
    return bytes(meta.get("finish_reason", b"null")) != b"null"
