"""Tells workers to abort: for a client's own /abort_request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial

from proxy.roster import Worker
from proxy.upstream.exchange import Exchange
from proxy.upstream.inquiries import Answer, Inquiries

_ABORT_S = 3.0
_AT_ONCE = 32  # why: bursts of aborts have deadlocked prefills, so all of a proxy's are not told at once


async def abort(exchanges: Iterable[Exchange], inquiries: Inquiries) -> int:
    """Aborts attempts on both legs; the answers end as SGLang ends an aborted one.

    Returns:
        How many attempts that were.
    """
    found = list(exchanges)
    gate = asyncio.Semaphore(_AT_ONCE)
    async with asyncio.TaskGroup() as group:
        for exchange in found:
            exchange.aborted = True
            group.create_task(_abort(exchange, inquiries, gate))
    return len(found)


async def _abort(exchange: Exchange, inquiries: Inquiries, gate: asyncio.Semaphore) -> None:
    workers = [exchange.placement.prefill.worker, exchange.placement.decode.worker]
    async with gate:
        await inquiries.fan_out(workers, partial(_tell, inquiries, exchange.rid))


async def _tell(inquiries: Inquiries, rid: str, worker: Worker) -> Answer:
    return await inquiries.ask(worker, "POST", "/abort_request", _ABORT_S, body={"rid": rid})
