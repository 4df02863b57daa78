"""Clients that ask for everything at random, trust nothing, and know every right answer."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.flow.scripted import read_head
from tests.flow.talk import CHAT, GENERATE, ROUTES, Answer, Json, body_for, texts
from tests.support.engines import expected
from workers.engine.oracle import chat_prompt

_LIMIT_S = 60.0
_QUIET_S = 0.02
MOST_ATTEMPTS = 5
ERROR_STATUSES = frozenset([429, 500, 502, 503, 504])


@dataclass(frozen=True, slots=True)
class Question:
    """One request, and the right texts by index."""

    number: int
    route: str
    body: Json
    tokens: int
    right: Mapping[int, str]
    leaves_after_s: float | None = None
    """The client goes away then, whatever has come."""

    @property
    def streamed(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def answers(self) -> int:
        """How many times a pair is asked: a batch goes to one pair, n answers to n."""
        params = self.body["sampling_params"] if self.route == GENERATE else self.body
        return int(params.get("n", 1))

    def request(self) -> bytes:
        """The bytes to send."""
        body = json.dumps(self.body).encode()
        head = (
            f"POST {self.route} HTTP/1.1\r\nHost: chaos\r\nContent-Type: application/json\r\n"
            f"X-Request-Id: chaos-{self.number}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def make_question(number: int, dice: random.Random) -> Question:
    """Any route, streamed or not, one answer or two, one prompt or two, with a client that may leave."""
    route = dice.choice(ROUTES)
    tokens = dice.randint(4, 40)
    prompt = f"Tell me story number {number} of the dragon"
    body = body_for(route, prompt, tokens)
    prompts = [prompt]
    shape = dice.random()
    if shape < 0.1:
        target = body["sampling_params"] if route == GENERATE else body
        target["n"] = 2
        prompts = [prompt, prompt]
    elif shape < 0.2 and route != CHAT:
        prompts = [prompt, f"{prompt} and of the lantern"]
        body["text" if route == GENERATE else "prompt"] = prompts
    if dice.random() < 0.75:
        body["stream"] = True
    leaves = dice.uniform(0, 0.6) if dice.random() < 0.08 else None
    asked = [chat_prompt(body["messages"]) if route == CHAT else one for one in prompts]
    right = {index: expected(one, tokens) for index, one in enumerate(asked)}
    return Question(number, route, body, tokens, right, leaves)


class Broken(Exception):
    """A client got what it must never get."""


@dataclass
class Books:
    """What all clients have seen."""

    sent: int = 0
    answers: int = 0
    """That were asked for: n of them by one request."""
    ends: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    """As the answers tell of them."""
    broken: list[str] = field(default_factory=list)

    @property
    def share_right(self) -> float:
        """Of those that stayed to the end."""
        stayed = self.ends.total() - self.ends["left"]
        return self.ends["right"] / stayed if stayed else 0.0


class Client:
    """One after the other on a kept connection, as long as the proxy keeps it."""

    def __init__(self, port: int, disjoint: bool, books: Books) -> None:
        self._port = port
        self._disjoint = disjoint
        self._books = books
        self._pair: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, question: Question) -> None:
        """Asks, judges what comes, and notes it."""
        self._books.sent += 1
        self._books.answers += question.answers
        pieces: list[bytes] = []
        try:
            self._books.ends[await self._ask(question, pieces)] += 1
        except (Broken, AssertionError, OSError, EOFError, TimeoutError, ValueError, LookupError) as error:
            self._books.ends["broken"] += 1
            told = b"".join(pieces)
            self._books.broken.append(
                f"chaos-{question.number} {question.route} {json.dumps(question.body)}\n"
                f"    {type(error).__name__}: {error}\n    after {len(told)} bytes: {told[-1500:]!r}"
            )
            self.hang_up()

    def hang_up(self) -> None:
        """Closes the connection."""
        if self._pair is not None:
            self._pair[1].close()
            self._pair = None

    async def _ask(self, question: Question, pieces: list[bytes]) -> str:
        if self._pair is None:
            self._pair = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 22)
        reader, writer = self._pair
        writer.write(question.request())
        if question.leaves_after_s is not None:
            await asyncio.sleep(question.leaves_after_s)
            writer.transport.abort()
            self._pair = None
            return "left"
        async with asyncio.timeout(_LIMIT_S):
            answer = await _read(reader, pieces)
        end = judge(question, answer, self._disjoint)
        self._books.attempts += int(answer.headers.get("x-pd-attempts", 0))
        await self._nothing_follows(reader, answer)
        return end

    async def _nothing_follows(self, reader: asyncio.StreamReader, answer: Answer) -> None:
        """No byte comes after an end; a connection that is to be closed is."""
        closing = answer.headers.get("connection", "").lower() == "close"
        try:
            async with asyncio.timeout(_LIMIT_S if closing else _QUIET_S):
                more = await reader.read(1000)
        except TimeoutError:
            if closing:
                raise Broken("the proxy said that it closes, and does not") from None
            return
        if more:
            raise Broken(f"bytes after the end: {more!r}")
        self.hang_up()


async def _read(reader: asyncio.StreamReader, pieces: list[bytes]) -> Answer:
    """An answer to the end that its framing names; `pieces` holds its body also when it breaks off."""
    status, headers = await read_head(reader)
    if headers.get("transfer-encoding") != "chunked":
        pieces.append(await reader.readexactly(int(headers["content-length"])))
        return Answer(status, headers, b"".join(pieces))
    while True:
        size = int((await reader.readuntil(b"\r\n"))[:-2], 16)
        payload = await reader.readexactly(size + 2)
        if payload[-2:] != b"\r\n":
            raise Broken(f"a chunk does not end: {payload[-20:]!r}")
        if not size:
            return Answer(status, headers, b"".join(pieces))
        pieces.append(payload[:-2])


def judge(question: Question, answer: Answer, disjoint: bool) -> str:
    """`right`, or what kind of clean error it is.

    Raises:
        Broken, AssertionError: it is neither.
    """
    if int(answer.headers.get("x-pd-attempts", 1)) > MOST_ATTEMPTS * question.answers:
        raise Broken(f"{answer.headers['x-pd-attempts']} attempts")
    if answer.status != 200:
        return _judge_status(answer)
    if question.streamed:
        return _judge_stream(question, answer, disjoint)
    told = texts(question.route, answer, False)
    if told != question.right:
        raise Broken(f"wrong texts {told}, not {dict(question.right)}")
    return "right"


def _judge_status(answer: Answer) -> str:
    if answer.status not in ERROR_STATUSES:
        raise Broken(f"status {answer.status}: {answer.raw!r}")
    error = answer.json.get("error", answer.json)
    if not error.get("message") or not {"type", "code"} <= set(error):
        raise Broken(f"an error without the form of one: {answer.raw!r}")
    return f"status {answer.status} {error['code']}"


_Told = tuple[dict[int, str], dict[int, str]]
"""Texts, and finish reasons, by index."""


def _judge_stream(question: Question, answer: Answer, disjoint: bool) -> str:
    events = answer.events
    errors = [event for event in events if "error" in event]
    if errors and (len(errors) > 1 or events[-1] is not errors[0]):
        raise Broken("an error that is not the last event")
    if errors and not errors[0]["error"].get("message"):
        raise Broken(f"an error that says nothing: {errors[0]}")
    read = _generate if question.route == GENERATE else _openai
    told, ends = read(question, events[: len(events) - len(errors)], disjoint)
    for index, text in told.items():
        if not question.right[index].startswith(text):
            raise Broken(f"wrong text at {index}: {text!r}, not {question.right[index]!r}")
    if errors:
        shape = "a batch" if len(question.right) > 1 else "one answer"
        return f"error event in {shape}: {errors[0]['error'].get('code')}"
    if "abort" in ends.values():
        return "abort event"
    if told != question.right or set(ends.values()) != {"length"} or len(ends) != len(told):
        raise Broken(f"told as a success: {told}, {ends}, not {dict(question.right)}")
    return "right"


def _generate(
    question: Question, events: list[Json], disjoint: bool
) -> tuple[dict[int, str], dict[int, str]]:
    """Texts and finish reasons by index; ids and counts are held against each other."""
    told: dict[int, str] = defaultdict(str)
    count: dict[int, int] = defaultdict(int)
    ends: dict[int, str] = {}
    ids: dict[int, Any] = {}
    for event in events:
        index, meta = event.get("index", 0), event["meta_info"]
        _require(index not in ends, "an event after its end", event)
        _require(disjoint or event["text"].startswith(told[index]), "a text that goes back", event)
        told[index] = told[index] + event["text"] if disjoint else event["text"]
        count[index] = len(event["output_ids"]) + (count[index] if disjoint else 0)
        _require(ids.setdefault(index, meta["id"]) == meta["id"], "the id changes", event)
        reason = meta["finish_reason"]
        if reason is not None:
            ends[index] = reason["type"]
        if reason is None or reason["type"] != "abort":
            _require(meta["completion_tokens"] == count[index], "tokens and ids differ", event)
    for index, reason in ends.items():
        _require(reason == "abort" or count[index] == question.tokens, "another number of tokens", count)
    return dict(told), ends


def _openai(question: Question, events: list[Json], disjoint: bool) -> _Told:
    told: dict[int, str] = defaultdict(str)
    roles: Counter[int] = Counter()
    ends: dict[int, str] = {}
    for event in events:
        for key in ("id", "created", "model"):
            _require(event[key] == events[0][key], f"the {key} changes", event)
        for choice in event["choices"]:
            index = choice["index"]
            _require(index not in ends, "a choice after its end", event)
            delta = choice["delta"] if question.route == CHAT else choice
            told[index] += delta.get("content" if question.route == CHAT else "text") or ""
            roles[index] += delta.get("role") is not None
            if choice["finish_reason"] is not None:
                ends[index] = choice["finish_reason"]
    wanted = 1 if question.route == CHAT else 0
    _require(all(count == wanted for count in roles.values()), "role chunks", dict(roles))
    return dict(told), ends


def _require(holds: bool, what: str, where: object) -> None:
    if not holds:
        raise Broken(f"{what}: {where}")


async def traffic(
    port: int, clients: int, dice: random.Random, disjoint: bool, books: Books, goes_on: Callable[[], bool]
) -> None:
    """So many clients at once, each asking again as soon as it is answered."""

    async def one() -> None:
        client = Client(port, disjoint, books)
        while goes_on():
            await client.ask(make_question(books.sent, dice))
        client.hang_up()

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(one())
