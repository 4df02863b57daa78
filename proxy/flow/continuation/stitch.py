"""The second part of a stream made to look like more of the first: events in, events out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from proxy.flow.continuation.asked import TEXT, decoded
from proxy.flow.continuation.closing import OUTPUT_LISTS, close_choice, close_generated, usage_chunk
from proxy.flow.continuation.seam import Seam
from proxy.flow.continuation.stops import Stop, StopWatch
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
        self._lists = seam.lists
        self._again = seam.again
        self._beyond = seam.beyond
        self._first: Members | None = None  # held until the form of the stream is known
        self._new = ""
        self.ended = False

    def rewrite(self, data: bytes) -> list[bytes]:
        """One event, or the end."""
        if data == END:
            return [*self._flush(), data]
        event = decode_object(data)
        meta = as_object(event.get("meta_info"))
        if meta is None:
            return [*self._flush(), data]
        if self._cumulative is None:
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
        self._rewrite_meta(meta, total)
        if self._cumulative:
            self._new = new
            known = seam.beyond.startswith(new) and not _ends(meta)
            event["text"] = raw(seam.text + (seam.beyond if known else new))
            if "output_ids" in event:
                event["output_ids"] = _joined(seam.ids, event["output_ids"])
            for name, before in self._lists.items():
                meta[name] = _joined(before, meta.get(name))
            # Nothing is told of tokens told before, unless it turns out otherwise this time.
            silent = total <= seam.generated + seam.again and known
        else:
            self._new += new
            new = self._unheard(new)
            event["text"] = raw(new)
            ids = as_array(event.get("output_ids"))
            again = min(self._again, len(ids) or self._again)
            self._again -= again
            self._cut(event, meta, ids, again, tokens)
            silent = not new and bool(ids) and len(ids) <= again
        stop = self._watch.found(self._new) if total >= seam.least else None
        if stop is not None:
            return self._stopped({**event, "meta_info": raw(meta)}, stop)
        if silent and not _ends(meta):
            return []
        return [encode({**event, "meta_info": raw(meta)})]

    def _unheard(self, new: str) -> str:
        """What of a disjoint event's text the client has not been shown before."""
        beyond = self._beyond
        if not beyond:
            return new
        if beyond.startswith(self._new):
            self._beyond = "" if self._new == beyond else beyond
            return ""
        self._beyond = ""
        return self._new.removeprefix(beyond)

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


class ChoiceStitch:
    """Of a completion or a chat."""

    def __init__(self, seam: Seam) -> None:
        self._seam = seam
        self._watch = StopWatch(seam.stops, seam.text)
        self._new = ""
        self._again = seam.again
        self._tokens = 0
        self.ended = False

    def rewrite(self, data: bytes) -> list[bytes]:
        """One event, or the end."""
        if data == END:
            return [data]
        event = decode_object(data)
        if "choices" not in event:
            return [data]
        event.update(self._seam.identity)
        usage = as_object(event.get("usage"))
        if usage is not None:
            event["usage"] = raw(self._usage(usage))
        choices = as_array(event["choices"])
        return self._told(event, decode_object(choices[0])) if choices else [encode(event)]

    def _told(self, event: Members, choice: Members) -> list[bytes]:
        delta = as_object(choice.get("delta"))
        text = decoded(choice if delta is None else delta, "text" if delta is None else "content", TEXT) or ""
        choice.pop("prompt_token_ids", None)
        ends = bytes(choice.get("finish_reason", b"null")) != b"null"
        if delta is not None and decoded(delta, "role", TEXT) is not None:
            if not text and not ends:
                return []
            delta["role"] = msgspec.Raw(b"null")
            choice["delta"] = raw(delta)
        again = self._cut(choice) if delta is None else 0
        self._tokens += 1
        self._new += text
        told = {**event, "choices": raw([choice])}
        stop = (
            self._watch.found(self._new) if self._seam.generated + self._tokens >= self._seam.least else None
        )
        if stop is not None:
            return self._stopped(told, stop)
        return [] if again and not text and not ends else [encode(told)]

    def _cut(self, choice: Members) -> int:
        """Cuts off what was told before of tokens that have come again; how many these are."""
        logprobs = as_object(choice.get("logprobs"))
        told = len(as_array(choice.get("token_ids"))) if "token_ids" in choice else 1
        if logprobs is not None:
            told = len(as_array(logprobs.get("tokens")))
        again = min(self._again, told)
        self._again -= again
        if again and logprobs is not None:
            lists = {
                name: raw(as_array(value)[again:]) if bytes(value).startswith(b"[") else value
                for name, value in logprobs.items()
            }
            choice["logprobs"] = raw(lists)
        if again and "token_ids" in choice:
            choice["token_ids"] = raw(as_array(choice["token_ids"])[again:])
        return again

    def _usage(self, usage: Members) -> Members:
        prompt, completion = (whole_number(usage.get(f"{part}_tokens")) for part in ("prompt", "completion"))
        total, known = prompt + completion, self._seam.prompt_tokens
        prompt = max(prompt - self._seam.generated, 0) if known is None else known
        told = {"prompt_tokens": prompt, "total_tokens": total, "completion_tokens": total - prompt}
        return usage | {name: raw(value) for name, value in told.items()}

    def _stopped(self, event: Members, stop: Stop) -> list[bytes]:
        self.ended = True
        seam = self._seam
        closing = close_choice(event, "stop", stop.string, keeps_text=seam.keeps_stop)
        if seam.include_usage and seam.prompt_tokens is not None:
            closing.append(usage_chunk(event, seam.prompt_tokens, seam.generated + self._tokens))
        return closing
