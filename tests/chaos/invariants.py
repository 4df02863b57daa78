"""What must hold when all is over, whatever has happened."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

from tests.chaos.fleet import Fleet
from tests.chaos.traffic import Books, Client, make_question

_ENGINE_BOOKS = ("live", "running", "waiting", "queued", "rooms_open", "kv_handshaking", "kv_receiving")
_PROXY_BOOKS = (
    "pd_requests_in_flight",
    "pd_legs_in_flight",
    "pd_queue_depth",
    "pd_held_bytes",
)
_IDLE_WITHIN_S = 15.0
_HEALED_WITHIN_S = 30.0
_RIGHT_IN_A_ROW = 20


async def healed(fleet: Fleet, disjoint: bool, books: Books, dice: random.Random) -> str | None:
    """The fleet is whole again, so soon every answer is right at once; what is not, or None."""
    client = Client(fleet.port, disjoint, books)
    deadline = time.monotonic() + _HEALED_WITHIN_S
    in_a_row = 0
    while in_a_row < _RIGHT_IN_A_ROW:
        before = books.ends["right"] + books.ends["left"]
        await client.ask(make_question(books.sent, dice))
        in_a_row = in_a_row + 1 if books.ends["right"] + books.ends["left"] > before else 0
        if time.monotonic() > deadline:
            return f"not healed within {_HEALED_WITHIN_S:.0f} s"
    client.hang_up()
    return None


async def violated(fleet: Fleet, books: Books) -> list[str]:
    """Every law that does not hold, once all clients have ended."""
    deadline = time.monotonic() + _IDLE_WITHIN_S
    while True:
        unrest = [*await _engines_at_work(fleet), *_proxy_at_work(await fleet.metrics())]
        if not unrest or time.monotonic() > deadline:
            return [*unrest, *_miscounted(await fleet.metrics(), books), *_log_of(fleet, books)]
        await asyncio.sleep(0.1)


async def _engines_at_work(fleet: Fleet) -> list[str]:
    found = []
    for number, slot in enumerate(fleet.slots):
        state = await slot.engine.state()
        books = {name: state[name] for name in _ENGINE_BOOKS if state[name]}
        if books:
            found.append(f"{slot.role} {number} is not idle: {books}")
    return found


def _samples(metrics: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def _proxy_at_work(metrics: str) -> list[str]:
    return [
        f"{name}{labels} is {value:g}, not 0"
        for name, labels, value in _samples(metrics)
        if name in _PROXY_BOOKS and value
    ]


def _miscounted(metrics: str, books: Books) -> Iterator[str]:
    total: Counter[str] = Counter()
    internal = 0.0
    for name, labels, value in _samples(metrics):
        total[name] += int(value)
        if labels.get("outcome") == "internal":
            internal += value
    if total["pd_requests_total"] != books.sent:
        yield f"{books.sent} requests have {total['pd_requests_total']} outcomes"
    if internal:
        yield f"{internal:g} requests failed by a fault of the proxy"
    if total["pd_attempts_total"] > books.answers + total["pd_retries_total"]:
        yield (
            f"{total['pd_attempts_total']} attempts for {books.answers} answers "
            f"and {total['pd_retries_total']} retries"
        )
    if total["pd_attempts_total"] < books.attempts:
        yield f"clients were told of {books.attempts} attempts, counted were {total['pd_attempts_total']}"


def _log_of(fleet: Fleet, books: Books) -> Iterator[str]:
    """One line a request, and no traceback."""
    text = fleet.log.read_text(errors="replace")
    if "Traceback" in text:
        at = text.index("Traceback")
        yield f"the proxy's log holds a traceback: {text[max(at - 500, 0) : at + 3000]}"
    told = Counter(
        line["request_id"]
        for line in map(_parsed, text.splitlines())
        if str(line.get("request_id", "")).startswith("chaos-") and "outcome" in line
    )
    twice = [request for request, count in told.items() if count > 1]
    if twice:
        yield f"more than one outcome: {twice[:5]}"
    if len(told) != books.sent:
        yield f"{books.sent} requests have {len(told)} lines in the log"


def _parsed(line: str) -> dict[str, object]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
