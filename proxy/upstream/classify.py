"""What a worker's answer means: a token, something to wait behind, or a failure."""

from __future__ import annotations

import re

import msgspec

from proxy.roster import Role
from proxy.upstream.outcome import Failure, Outcome

# SGLang's own words, 0.5.2 to 0.5.23: its status codes do not tell these apart.
_KV_BOOTSTRAP = (
    b"Prefill bootstrap failed",
    b"Decode handshake failed",
    b"Could not fetch bootstrap info",
    b"bootstrap_room mismatch",
)
# Mooncake's session between the two is dead: every further request over this edge will fail as well.
_SESSION_DEAD = (
    b"Decode instance could be dead",
    b"Failed to get kvcache from prefill instance",
    b"Losing connection with prefill instance",
    b"Lost connection with prefill instance",
)
_KV_TRANSFER = (
    b"Prefill transfer failed",
    b"Decode transfer failed",
    b"KVTransferError(",
    *_SESSION_DEAD,
)
_QUEUE_FULL = b"The request queue is full"
_DUPLICATE_RID = b"Duplicate request ID"
# 0.5.2 calls every failure of a streamed completion a 400, but its message begins with the true status
# (the text of a Starlette HTTPException). What is the client's own begins with no number.
_TRUE_STATUS = re.compile(r"(5\d\d): ")
_OURS_TO_RETRY = frozenset([401, 403, 408, 429])
_LONGEST_MESSAGE = 2000


class _Finish(msgspec.Struct):
    type: str = ""
    message: str | None = None
    status_code: int | None = None


class _MetaInfo(msgspec.Struct):
    finish_reason: _Finish | None = None
    completion_tokens: int = -1


class _GenerateEvent(msgspec.Struct):
    meta_info: _MetaInfo | None = None
    error: msgspec.Raw = msgspec.Raw()


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: msgspec.Raw | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    completion_tokens: int = -1


class _OpenAIEvent(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


class _Error(msgspec.Struct):
    message: str = ""
    code: int | str | None = None


_decode_generate = msgspec.json.Decoder(_GenerateEvent).decode
_decode_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_openai = msgspec.json.Decoder(_OpenAIEvent).decode
_decode_error = msgspec.json.Decoder(_Error).decode
# Nested too deeply: msgspec gives up where Python's own stack would end.
_UNREADABLE = (msgspec.DecodeError, RecursionError)

Verdict = Failure | bool
"""A failure; True: a token, or a good end; False: nothing yet, wait for the next event."""


def judge_error(status: int, body: bytes, role: Role) -> Failure:
    """What a status other than 200, or an error inside a 200, means."""
    message = body[:_LONGEST_MESSAGE].decode("utf-8", "replace")
    if any(mark in body for mark in _KV_BOOTSTRAP):
        return Failure(Outcome.KV_BOOTSTRAP, message, 502, role, session_dead=_session_dead(body))
    if any(mark in body for mark in _KV_TRANSFER):
        return Failure(Outcome.KV_TRANSFER, message, 502, role, session_dead=_session_dead(body))
    if _QUEUE_FULL in body or status == 429:
        return Failure(Outcome.REJECTED, message, 503, role, retry_after_s=1)
    if 400 <= status < 500 and status not in _OURS_TO_RETRY and _DUPLICATE_RID not in body:
        return Failure(Outcome.BAD_REQUEST, message, status, role, body)
    return Failure(Outcome.ENGINE_ERROR, message, status if 500 <= status <= 599 else 502, role)


def _session_dead(body: bytes) -> bool:
    return any(mark in body for mark in _SESSION_DEAD)


def plainly_good(status: int, body: bytes) -> bool:
    """Whether a whole answer need not be parsed to be called good: it has none of the words of a bad one."""
    # Where a model has said them their quotes are escaped.
    return (
        status == 200
        and bool(body)
        and b'"abort"' not in body
        and b'"error"' not in body
        and b'"completion_tokens":0' not in body
    )


class Judge:
    """Judges the answers of one leg of one kind of request; has no state of its own."""

    __slots__ = ("_generate", "_role", "_zero_ok")

    def __init__(self, generate: bool, role: Role, zero_ok: bool = False) -> None:
        """Makes a judge.

        Args:
            generate: whether the route is /generate; else it is one of OpenAI's.
            role: whose answers these are.
            zero_ok: whether an answer with nothing to show may be what was asked for.
        """
        self._generate = generate
        self._role = role
        self._zero_ok = zero_ok

    def events(self, events: bytes) -> Verdict:
        """Judges whole events, chunk framing around them or not; the first that says anything decides."""
        for block in events.split(b"\n\n"):
            start = block.find(b"data:")
            if start < 0:
                continue
            event = block[start + 5 :].strip()
            if event == b"[DONE]":
                return Failure(Outcome.EMPTY, "the stream ended without a token", 502, self._role)
            verdict = self.event(event)
            if verdict is not False:
                return verdict
        return False

    def event(self, event: bytes) -> Verdict:
        """Judges one event's JSON (what stands behind `data: `).

        An event of unknown shape counts as a token, for a worker newer than we are must work.
        """
        try:
            if self._generate:
                return self._generated(event, _decode_generate(event))
            return self._completed(event, _decode_openai(event))
        except _UNREADABLE:
            return True

    def whole(self, status: int, body: bytes) -> Failure | None:
        """Judges a whole answer that was not streamed, and is not `plainly_good`; None is success."""
        if status != 200:
            return judge_error(status, body, self._role)
        if not body:
            return Failure(Outcome.EMPTY, "the worker answered 200 without a body", 502, self._role)
        try:
            answers = _decode_raws(body) if body[:1] == b"[" else [msgspec.Raw(body)]
        except _UNREADABLE:
            return None
        for answer in answers:
            verdict = self.event(bytes(answer))
            if isinstance(verdict, Failure):
                return verdict
        return None

    def _generated(self, event: bytes, parsed: _GenerateEvent) -> Verdict:
        if parsed.error:
            return self._error_event(event, bytes(parsed.error))
        meta = parsed.meta_info
        if meta is None:
            return True
        finish = meta.finish_reason
        if finish is None:
            return meta.completion_tokens != 0
        if finish.type == "abort" and finish.status_code is not None:
            message = finish.message or "aborted by the engine"
            body = msgspec.json.encode({"error": {"message": message, "code": finish.status_code}})
            return judge_error(finish.status_code, body, self._role)
        # An abort without a status is a user's own: a normal end.
        if finish.type == "length" and meta.completion_tokens == 0 and not self._zero_ok:
            return self._no_token()
        return True

    def _no_token(self) -> Failure:
        return Failure(Outcome.LENGTH_ZERO, "the engine ended at its length with no token", 502, self._role)

    def _completed(self, event: bytes, parsed: _OpenAIEvent) -> Verdict:
        if parsed.error:
            return self._error_event(event, bytes(parsed.error))
        if not parsed.choices:
            return True
        counts_none = parsed.usage is not None and parsed.usage.completion_tokens == 0 and not self._zero_ok
        if counts_none and any(choice.finish_reason == "length" for choice in parsed.choices):
            return self._no_token()
        for choice in parsed.choices:
            if choice.finish_reason == "abort":
                return Failure(Outcome.ABORTED_BY_ENGINE, "the engine aborted the request", 502, self._role)
            delta = choice.delta
            if choice.text or (delta and (delta.content or delta.reasoning_content or delta.tool_calls)):
                return True
            if choice.finish_reason == "length" and not self._zero_ok and (delta or choice.text is not None):
                return self._no_token()
            if choice.finish_reason:
                return True
        # A completions event has no role to announce: an empty text there is a token all the same.
        return parsed.choices[0].delta is None

    def _error_event(self, event: bytes, error: bytes) -> Failure:
        try:
            told = _decode_error(error)
            # 0.5.2 tells a client's own error in a stream of /generate by its message alone.
            status = int(told.code or 400)
            true = _TRUE_STATUS.match(told.message) if status == 400 else None
            status = int(true[1]) if true else status
        except (*_UNREADABLE, ValueError):
            status = 500
        return judge_error(status, event, self._role)
