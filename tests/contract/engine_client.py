"""Requests of an engine's clients, for the contract tests: single, paired, raw."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.engines import SimEngine, paired

CAPTURES = Path(__file__).parent / "captures"


@dataclass(frozen=True)
class Answer:
    status: int
    type: str
    body: bytes
    whole: bool = True
    """Whether the body came to its proper end."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The events without [DONE]."""
        return [json.loads(e[6:]) for e in self.body.split(b"\n\n") if e.startswith(b"data: {")]

    @property
    def done(self) -> bool:
        return self.body.endswith(b"data: [DONE]\n\n")


def capture(name: str) -> Answer:
    """A real server's answer, de-chunked."""
    head, body = (CAPTURES / f"{name}.raw").read_bytes().split(b"\r\n\r\n", 1)
    lines = head.decode().split("\r\n")
    headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:])}
    if headers.get("transfer-encoding") == "chunked":
        parts, rest = [], body
        while rest:
            size, rest = rest.split(b"\r\n", 1)
            parts.append(rest[: int(size, 16)])
            rest = rest[int(size, 16) + 2 :]
        body = b"".join(parts)
    return Answer(int(lines[0].split()[1]), headers.get("content-type", ""), body)


async def ask(
    engine: SimEngine, path: str, body: Mapping[str, Any] | bytes | None, limit_s: float = 10
) -> Answer:
    """POST, or GET without a body."""
    kind: dict[str, Any] = {"data": body} if isinstance(body, bytes) else {"json": body}
    headers = {"Content-Type": "application/json"}
    timeout = aiohttp.ClientTimeout(total=limit_s)
    async with aiohttp.ClientSession(timeout=timeout, headers=headers) as http:
        method = "GET" if body is None else "POST"
        async with http.request(method, engine.url + path, **(kind if body is not None else {})) as answer:
            got, whole = b"", True
            try:
                async for part in answer.content.iter_any():
                    got += part
            except aiohttp.ClientError:
                whole = False
            return Answer(answer.status, answer.headers.get("Content-Type", ""), got, whole)


async def ask_pair(
    prefill: SimEngine, decode: SimEngine, path: str, body: Mapping[str, Any], **more: Any
) -> tuple[Answer, Answer]:
    """The same body to both, as a proxy does."""
    both = paired(body, prefill, **more)
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(ask(prefill, path, both))
        second = tasks.create_task(ask(decode, path, both))
    return first.result(), second.result()


def generate(text: str = "hello world", n: int = 4, stream: bool = False, **more: Any) -> dict[str, Any]:
    return {"text": text, "stream": stream, "sampling_params": {"max_new_tokens": n}, **more}


def chat(n: int = 4, stream: bool = False, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "hi"}]
    return {"model": "m", "messages": messages, "max_tokens": n, "stream": stream, **more}
