"""A client that trusts nothing: reads one answer to its end, and says what it was worth."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from workers.engine.oracle import chat_prompt, completion

GENERATE, CHAT = "/generate", "/v1/chat/completions"
_LAST_CHUNK = b"\r\n0\r\n\r\n"


class Verdict(StrEnum):
    """What a client got."""

    RIGHT = "right"
    STATUS = "error status"
    """Another status than 200, told properly: a client can see it, and ask again."""
    EVENT = "error event"
    """An error or an abort in the stream."""
    TRUNCATED = "truncated"
    """The body ended without its end, or nothing came at all."""
    NO_DONE = "no [DONE]"
    WRONG = "wrong text"
    """All looked well, but it is not the whole right text."""
    HUNG = "hung"
    """No end within the limit."""


@dataclass(frozen=True, slots=True)
class Question:
    """A streamed request, and the one right answer to it."""

    route: str
    prompt: str
    tokens: int

    def request(self) -> bytes:
        """The bytes to send."""
        asked: dict[str, Any]
        if self.route == GENERATE:
            asked = {"text": self.prompt, "sampling_params": {"max_new_tokens": self.tokens}}
        else:
            asked = {"model": "simulated", "messages": self._messages(), "max_tokens": self.tokens}
        body = json.dumps({**asked, "stream": True}).encode()
        head = (
            f"POST {self.route} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def answer(self) -> str:
        """The right text."""
        prompt = self.prompt if self.route == GENERATE else chat_prompt(self._messages())
        return completion(prompt, self.tokens).text

    def _messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.prompt}]


class _Reading(asyncio.Protocol):
    """Collects an answer; `over` is done when it has ended, as it says or by the connection's end."""

    def __init__(self, over: asyncio.Future[None]) -> None:
        self.data = bytearray()
        self.over = over
        self._length: int | None = None

    def data_received(self, data: bytes) -> None:
        """Looks for the end: cheaply, since this is the path of every token."""
        self.data += data
        if self.data.endswith(_LAST_CHUNK) or self._is_long_enough():
            self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        """What was read is all there is."""
        self._settle()

    def _settle(self) -> None:
        if not self.over.done():
            self.over.set_result(None)

    def _is_long_enough(self) -> bool:
        if self._length is None:
            head, found, _ = self.data.partition(b"\r\n\r\n")
            length = _header(bytes(head), b"content-length") if found else None
            self._length = len(head) + 4 + int(length) if length else 0
        return 0 < self._length <= len(self.data)


async def ask(port: int, question: Question, limit_s: float) -> tuple[Verdict, bytes]:
    """Asks on a connection of its own, as SGLang's bench_serving does; the verdict, and all that came."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    try:
        transport, reading = await loop.create_connection(lambda: _Reading(over), "127.0.0.1", port)
    except OSError as error:
        return Verdict.TRUNCATED, str(error).encode()
    try:
        transport.write(question.request())
        async with asyncio.timeout(limit_s):
            await over
    except TimeoutError:
        return Verdict.HUNG, bytes(reading.data)
    finally:
        transport.abort()
    data = bytes(reading.data)
    return judge(data, question), data


def judge(data: bytes, question: Question) -> Verdict:
    """What the whole of an answer is worth to the client that asked the question."""
    head, _, rest = data.partition(b"\r\n\r\n")
    length = _header(head, b"content-length")
    body = unchunked(rest) if length is None else rest if len(rest) == int(length) else None
    if not head or body is None:
        return Verdict.TRUNCATED
    if not head.startswith(b"HTTP/1.1 200 "):
        return Verdict.STATUS
    *events, end = body.split(b"\n\n")
    if end or not events:
        return Verdict.TRUNCATED
    shown = [json.loads(event[6:]) for event in events if event != b"data: [DONE]"]
    if any(_is_error(event) for event in shown):
        return Verdict.EVENT
    if events[-1] != b"data: [DONE]":
        return Verdict.NO_DONE
    text = "".join(_deltas(shown)) if question.route == CHAT else shown[-1]["text"] if shown else ""
    return Verdict.RIGHT if text == question.answer() else Verdict.WRONG


def unchunked(data: bytes) -> bytes | None:
    """The payload of a whole chunked body; None if it is not whole, or more follows."""
    payload = bytearray()
    at = 0
    while True:
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            return None
        size, at = int(data[at:line_end], 16), line_end + 2
        payload += data[at : at + size]
        at += size + 2
        if data[at - 2 : at] != b"\r\n":
            return None
        if not size:
            return bytes(payload) if at == len(data) else None


def _header(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip()
    return None


def _is_error(event: dict[str, Any]) -> bool:
    if "error" in event or event.get("object") == "error":
        return True
    reasons = [choice.get("finish_reason") for choice in event.get("choices", ())]
    reasons.append((event.get("meta_info") or {}).get("finish_reason"))
    return any(reason == "abort" or _type(reason) == "abort" for reason in reasons)


def _type(reason: object) -> object:
    return reason.get("type") if isinstance(reason, dict) else None


def _deltas(events: list[dict[str, Any]]) -> Iterator[str]:
    for event in events:
        for choice in event["choices"]:
            yield choice["delta"].get("content") or ""
