"""The second part of a completion or a chat made to look like more of the first."""

from __future__ import annotations

import msgspec

from proxy.flow.continuation.asked import TEXT, decoded
from proxy.flow.continuation.closing import close_choice, usage_chunk
from proxy.flow.continuation.seam import Seam
from proxy.flow.continuation.stops import Stop, StopWatch
from proxy.flow.continuation.unheard import Unheard
from proxy.flow.events import END, Members, as_array, as_object, decode_object, encode, raw, whole_number


class ChoiceStitch:
    """Of a completion or a chat: each event tells what is new."""

    def __init__(self, seam: Seam) -> None:
        self._seam = seam
        self._watch = StopWatch(seam.stops, seam.text)
        self._unheard = Unheard(seam.beyond)
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
        holder, name = (choice, "text") if delta is None else (delta, "content")
        text = decoded(holder, name, TEXT) or ""
        choice.pop("prompt_token_ids", None)
        ends = bytes(choice.get("finish_reason", b"null")) != b"null"
        if delta is not None and decoded(delta, "role", TEXT) is not None:
            if not text and not ends:
                return []
            delta["role"] = msgspec.Raw(b"null")
        self._new += text
        unheard = self._unheard.of(text)
        if unheard != text:
            holder[name] = raw(unheard)
        if delta is not None:
            choice["delta"] = raw(delta)
        silent = self._cut(choice, chat=delta is not None) and not unheard and not ends
        told = {**event, "choices": raw([choice])}
        enough = self._seam.generated + self._tokens >= self._seam.least
        stop = self._watch.found(self._new) if enough else None
        if stop is not None:
            return self._stopped(told, stop)
        return [] if silent else [encode(told)]

    def _cut(self, choice: Members, *, chat: bool) -> bool:
        """Cuts off what was told before of tokens that have come again; whether they all have."""
        # A chat tells log probabilities only of tokens that show something, so none of them was told before.
        logprobs = None if chat else as_object(choice.get("logprobs"))
        if "token_ids" in choice:
            told = len(as_array(choice["token_ids"]))
        elif logprobs is not None:
            told = len(as_array(logprobs.get("tokens")))
        else:
            told = 1
        self._tokens += told
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
        return 0 < told == again

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
