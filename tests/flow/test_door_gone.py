"""A client that leaves ends its request at once, on both legs, wherever the request then is."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from proxy.edge.connection import ClientConnection
from proxy.flow.request import Request
from proxy.roster import Change
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.decode_leg import DecodeLeg
from proxy.upstream.exchange import Exchange
from proxy.upstream.prefill_leg import PrefillLeg
from tests.flow.scripted import EVENT_HEAD, Stage, Visit, ask, chunked, event, post, read_head, start_stage
from tests.flow.talk import GENERATE, body_for, start_fleet
from tests.support.engines import reached
from tests.support.proxies import eventually

STREAM = post(b'{"text":"a","stream":true}')


async def silent(visit: Visit) -> None:
    """Takes the request, and waits until the proxy closes."""
    await visit.gone()


async def one_event(visit: Visit) -> None:
    await visit.say(EVENT_HEAD + chunked(event("a")))
    await visit.gone()


def leave(how: str, writer: asyncio.StreamWriter) -> None:
    if how == "close":
        writer.close()
    elif how == "half-close":
        writer.write_eof()
    else:
        writer.transport.abort()


LEAVING = pytest.mark.parametrize("how", ["close", "half-close", "reset"])


async def rests(stage: Stage) -> None:
    """Both legs end within a second: no deadline of ours would be so quick."""
    await eventually(lambda: not stage.prefill.live and not stage.decode.live, 1.0)
    await eventually(lambda: stage.proxy.idle, 1.0)


@LEAVING
async def test_a_client_that_leaves_before_the_first_token_cancels_both_legs(how: str) -> None:
    async with start_stage(silent, silent) as stage:
        _, writer = await stage.proxy.connect()
        writer.write(STREAM)
        await eventually(lambda: stage.prefill.live and stage.decode.live)
        leave(how, writer)
        await rests(stage)
        assert stage.proxy.lines[0]["outcome"] == "client_gone"
        writer.close()


@LEAVING
async def test_a_client_that_leaves_in_the_stream_cancels_both_legs(how: str) -> None:
    async with start_stage(one_event, silent) as stage:
        reader, writer = await stage.proxy.connect()
        writer.write(STREAM)
        await read_head(reader)
        leave(how, writer)
        await rests(stage)
        assert stage.proxy.lines[0]["outcome"] == "client_gone"
        writer.close()


async def test_pipelined_bytes_do_not_hide_that_a_client_leaves() -> None:
    async with start_stage(silent, silent) as stage:
        _, writer = await stage.proxy.connect()
        writer.write(STREAM + STREAM)
        await eventually(lambda: stage.decode.live)
        writer.close()
        await rests(stage)
        assert len(stage.decode.visits) == 1


async def test_an_engine_stops_at_once_when_the_client_leaves() -> None:
    async with start_fleet(decode_ms_per_token=20) as fleet:
        async with fleet.http.post(GENERATE, json=body_for(GENERATE, tokens=5000, stream=True)) as answer:
            await answer.content.readline()
            await reached(fleet.decodes[0], "running")
        await eventually(lambda: not fleet.decodes[0].engine.state()["running"], 2.0)


async def test_a_client_that_leaves_the_queue_is_forgotten() -> None:
    async with start_stage(silent, silent, routing={"max_in_flight_per_worker": 1}) as stage:
        _, first = await stage.proxy.connect()
        first.write(STREAM)
        await eventually(lambda: stage.decode.live)
        _, second = await stage.proxy.connect()
        second.write(STREAM)
        await eventually(lambda: stage.proxy.service.admission.waiting == 1)
        second.close()
        await eventually(lambda: stage.proxy.service.admission.waiting == 0, 1.0)
        first.close()
        await rests(stage)
        assert len(stage.decode.visits) == 1


@contextmanager
def black_hole() -> Iterator[int]:
    """A port whose backlog is full: connecting to it takes for ever."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
            fillers.append(filler)
        yield listening.getsockname()[1]
        for filler in fillers:
            filler.close()


def move(stage: Stage, port: int) -> None:
    """Lets decode's address be that port."""
    old = stage.decode.worker
    stage.proxy.service.pool.apply(
        [Change(old.worker_id, replace(old, url=f"http://127.0.0.1:{port}", instance="moved"))]
    )


async def test_a_client_that_leaves_while_we_connect_cancels_both_legs() -> None:
    with black_hole() as port:
        async with start_stage(prefill=silent) as stage:
            move(stage, port)
            _, writer = await stage.proxy.connect()
            writer.write(STREAM)
            await eventually(lambda: stage.prefill.live)
            await asyncio.sleep(0.1)
            assert stage.proxy.service.corridor.in_flight == 1
            writer.close()
            await rests(stage)


async def test_connecting_has_its_limit() -> None:
    settings: dict[str, Any] = {"upstream": {"connect_s": 0.2}, "retries": {"enabled": False}}
    with black_hole() as port:
        async with start_stage(prefill=silent, **settings) as stage:
            move(stage, port)
            answer = await ask(stage.proxy, STREAM)
            assert answer.status == 503
            assert "within 0.2 s" in answer.error["message"]
            await rests(stage)


@pytest.mark.parametrize("stream", ["false", "true"])
async def test_a_request_leaves_nothing_for_the_garbage_collector(stream: str) -> None:
    kinds = (Exchange, PrefillLeg, DecodeLeg, Request, ClientConnection, UpstreamConnection)
    async with start_fleet() as fleet:
        body = body_for(GENERATE, stream=stream == "true")

        async def talk(count: int) -> None:
            for _ in range(count):
                async with fleet.http.post(GENERATE, json=body) as answer:
                    await answer.read()

        await talk(3)
        gc.collect()
        gc.disable()
        try:
            before = sum(isinstance(one, kinds) for one in gc.get_objects())
            await talk(30)
            await eventually(lambda: fleet.proxy.idle)
            after = sum(isinstance(one, kinds) for one in gc.get_objects())
        finally:
            gc.enable()
        assert after - before < 10
