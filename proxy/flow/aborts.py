"""Tells workers to abort: for a client's own /abort_request."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from proxy.roster import Worker
from proxy.upstream.exchange import Exchange
from proxy.upstream.inquiries import Answer, Inquiries

_ABORT_S = 3.0


async def abort(exchanges: Iterable[Exchange], inquiries: Inquiries) -> int:
    """Aborts attempts on both legs; the answers end as SGLang ends an aborted one.

    Returns:
        How many attempts that were.
    """
    found = list(exchanges)
    for exchange in found:
        workers = [exchange.placement.prefill.worker, exchange.placement.decode.worker]
        question = partial(_tell, inquiries, exchange.rid)
        await inquiries.fan_out(workers, question)
    return len(found)


async def _tell(inquiries: Inquiries, rid: str, worker: Worker) -> Answer:
    return await inquiries.ask(worker, "POST", "/abort_request", _ABORT_S, body={"rid": rid})
