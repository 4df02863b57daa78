"""Which pool serves a request: models are kept apart, and one pool alone serves any name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from tests.flow.talk import CHAT, COMPLETIONS, GENERATE, ask, body_for, right_text, start_fleet
from tests.support.engines import InProcess, start_engine
from tests.support.proxies import Proxy, start_proxy


@asynccontextmanager
async def two_models(**settings: dict[str, object]) -> AsyncIterator[tuple[Proxy, dict[str, InProcess]]]:
    """A proxy before a pair of model `alpha` and one of `beta`; the decodes by model."""
    async with (
        start_engine("prefill", model="alpha") as pa,
        start_engine("decode", model="alpha") as da,
        start_engine("prefill", model="beta") as pb,
        start_engine("decode", model="beta") as db,
        start_proxy([pa, pb], [da, db], **settings) as proxy,
    ):
        yield proxy, {"alpha": da, "beta": db}


async def served(decode: InProcess) -> int:
    total: int = (await decode.state())["total_requests"]
    return total


@pytest.mark.parametrize("route", [CHAT, COMPLETIONS])
async def test_a_requests_model_finds_its_pool(route: str) -> None:
    async with two_models() as (proxy, decodes):
        for name in ("alpha", "beta", "beta"):
            await right_text(proxy.http, route, {**body_for(route), "model": name})
        assert [await served(decodes[name]) for name in ("alpha", "beta")] == [1, 2]


async def test_a_header_names_the_model_where_the_body_cannot() -> None:
    async with two_models() as (proxy, decodes):
        got = await ask(proxy.http, GENERATE, body_for(GENERATE), X_PD_Model="beta")
        assert got.status == 200
        assert await served(decodes["beta"]) == 1


async def test_a_default_model_serves_those_that_name_none() -> None:
    async with two_models(routing={"default_model": "alpha"}) as (proxy, decodes):
        await right_text(proxy.http, GENERATE, body_for(GENERATE))
        assert await served(decodes["alpha"]) == 1


async def test_without_a_default_the_models_are_listed_to_choose_from() -> None:
    async with two_models() as (proxy, decodes):
        got = await ask(proxy.http, GENERATE, body_for(GENERATE))
        assert got.status == 400
        assert "alpha, beta" in got.json["error"]["message"]
        assert await served(decodes["alpha"]) == await served(decodes["beta"]) == 0
        assert proxy.lines[0]["outcome"] == "bad_request"


@pytest.mark.parametrize("route", [CHAT, COMPLETIONS])
async def test_an_unknown_model_is_not_found(route: str) -> None:
    async with two_models() as (proxy, _):
        got = await ask(proxy.http, route, {**body_for(route), "model": "gamma"})
        assert (got.status, got.json["error"]["code"]) == (404, "model_not_found")
        assert got.json["error"]["param"] == "model"


async def test_one_pool_alone_serves_any_name() -> None:
    async with start_fleet(model="alpha") as fleet:
        for name in ("alpha", "no such", ""):
            await right_text(fleet.http, CHAT, {**body_for(CHAT), "model": name})


@pytest.mark.parametrize("route", [GENERATE, CHAT])
async def test_a_static_list_of_workers_that_tell_nothing_serves(route: str) -> None:
    async with start_engine("prefill") as p, start_engine("decode") as d:
        static = {"prefill": [f"{p.url} {p.bootstrap_port}"], "decode": [d.url]}
        for engine in (p, d):
            for path in ("/server_info", "/get_server_info", "/ready", "/get_model_info"):
                await engine.fault("status", status=404, routes=[path])
        async with start_proxy(static=static) as proxy, aiohttp.ClientSession():
            await right_text(proxy.http, route, body_for(route))
            for member in proxy.service.pool.members():
                assert member.worker.engine_version is None
