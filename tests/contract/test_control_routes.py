"""The control routes on real sockets, with small aiohttp servers as workers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import aiohttp
import pytest
from aiohttp import web

from proxy.clock import SystemClock
from proxy.control.application import build_application
from proxy.control.deps import ControlDeps
from proxy.roster import Change, Origin, Role, Worker
from proxy.routing.group import PoolRules
from proxy.routing.pool import Pool
from proxy.upstream.inquiries import Inquiries

_Replies = Mapping[str, tuple[int, object]]


@dataclass
class Engine:
    """A worker that answers each path as told, and remembers what it was asked."""

    worker: Worker
    asked: list[tuple[str, str, object]] = field(default_factory=list)


@dataclass
class House:
    """A control plane, and what stands behind it."""

    stack: AsyncExitStack
    pool: Pool
    deps: ControlDeps
    aborted: list[str]
    not_ready: list[str]
    url: str = ""

    async def open(self, **changes: object) -> None:
        self.deps = replace(self.deps, **changes)  # type: ignore[arg-type]
        self.url = await _serve(self.stack, build_application(self.deps))

    async def engine(self, role: Role, replies: _Replies, model: str | None = None) -> Engine:
        async def reply(request: web.Request) -> web.Response:
            text = await request.text()
            engine.asked.append((request.method, request.path, text))
            status, value = replies.get(request.path, (404, {"detail": "Not Found"}))
            return web.json_response(value, status=status)

        app = web.Application()
        app.router.add_route("*", "/{any:.*}", reply)
        url = await _serve(self.stack, app)
        port = int(url.rsplit(":", 1)[1])
        worker = Worker(
            f"{role}-127.0.0.1-{port}",
            url,
            role,
            model=model,
            bootstrap_port=8998 if role is Role.PREFILL else None,
        )
        engine = Engine(worker)
        self.pool.apply([Change(worker.worker_id, worker)])
        return engine

    async def ask(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, object, Mapping[str, str]]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with (
            aiohttp.ClientSession() as client,
            client.request(method, self.url + path, json=body, headers=sent) as response,
        ):
            value = (
                await response.json()
                if response.content_type == "application/json"
                else await response.text()
            )
            return response.status, value, dict(response.headers)


async def _serve(stack: AsyncExitStack, app: web.Application) -> str:
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}"


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        clock = SystemClock()
        pool = Pool(PoolRules(), clock, random.Random(1))
        inquiries = Inquiries(None, 2.0)
        stack.push_async_callback(inquiries.close)
        aborted: list[str] = []
        not_ready: list[str] = []

        async def abort(rid: str) -> int:
            aborted.append(rid)
            return 1

        deps = ControlDeps(
            pool=pool,
            inquiries=inquiries,
            clock=clock,
            metrics_exposition=lambda accept: (b"pd_up 1\n", "text/plain; version=0.0.4; charset=utf-8"),
            readiness=lambda: not_ready[0] if not_ready else pool.unready(),
            abort_rid=abort,
            version="1.2.3",
            started_at=1_700_000_000.0,
            own_addresses=("127.0.0.1:30000",),
            inquiry_s=2.0,
            generate_s=2.0,
        )
        yield House(stack, pool, deps, aborted, not_ready)


async def _pair(
    house: House, prefill: _Replies | None = None, decode: _Replies | None = None
) -> tuple[Engine, Engine]:
    return await house.engine(Role.PREFILL, prefill or {}), await house.engine(Role.DECODE, decode or {})


def _get(value: object, *path: str | int) -> object:
    for step in path:
        value = value[step]  # type: ignore[index]
    return value


async def test_alive_is_not_ready_and_ready_says_why(house: House) -> None:
    await house.open()
    assert (await house.ask("GET", "/health"))[0] == 200
    assert (await house.ask("GET", "/liveness"))[0] == 200
    status, body, _ = await house.ask("GET", "/readiness")
    assert status == 503
    assert "worker is known" in str(_get(body, "reason"))
    await _pair(house)
    assert (await house.ask("GET", "/readiness"))[0] == 200
    house.not_ready.append("draining")
    status, body, _ = await house.ask("GET", "/readiness")
    assert (status, _get(body, "reason")) == (503, "draining")


async def test_every_answer_closes_its_connection(house: House) -> None:
    await house.open()
    for path in ("/health", "/metrics", "/nowhere", "/health_generate"):
        host, _, port = house.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        async with asyncio.timeout(5):
            answer = await reader.read()
        assert b"connection: close" in answer.lower(), path
        writer.close()


async def test_an_unknown_route_lists_what_there_is(house: House) -> None:
    await house.open()
    status, body, _ = await house.ask("GET", "/nowhere")
    assert status == 404
    assert _get(body, "error", "code") == "not_found"
    assert "/readiness" in str(_get(body, "error", "message"))


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/generate", "OPTIONS, POST"),
        ("DELETE", "/health", "GET, HEAD, OPTIONS"),
        ("GET", "/abort_request", "OPTIONS, POST"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(
    house: House, method: str, path: str, allowed: str
) -> None:
    await house.open()
    status, body, headers = await house.ask(method, path)
    assert (status, headers["Allow"]) == (405, allowed)
    assert _get(body, "error", "code") == "method_not_allowed"
    status, _, headers = await house.ask("OPTIONS", path)
    assert (status, headers["Allow"]) == (204, allowed)


async def test_health_generate_goes_through_one_pair_in_one_room(house: House) -> None:
    await house.open()
    prefill, decode = await _pair(house, {"/generate": (200, {})}, {"/generate": (200, {})})
    status, body, _ = await house.ask("GET", "/health_generate")
    assert status == 200, body
    assert prefill.asked[0] == decode.asked[0]
    assert '"bootstrap_room"' in str(prefill.asked[0][2])
    assert [member.in_flight for member in house.pool.members()] == [0, 0]


async def test_health_generate_tells_which_leg_failed_without_waiting_for_the_other(house: House) -> None:
    await house.open()
    _, decode = await _pair(house, {"/generate": (200, {})}, {"/generate": (500, {"error": "boom"})})
    status, body, _ = await house.ask("GET", "/health_generate")
    assert status == 502
    assert decode.worker.worker_id in str(_get(body, "error", "message"))
    assert [member.in_flight for member in house.pool.members()] == [0, 0]


async def test_models_are_the_decodes_own_and_the_registrys_where_they_do_not_tell(house: House) -> None:
    await house.open()
    await house.engine(Role.DECODE, {"/v1/models": (200, {"data": [{"id": "llama", "max_model_len": 9}]})})
    await house.engine(Role.DECODE, {}, model="org/qwen")
    _, body, _ = await house.ask("GET", "/v1/models")
    cards = {card["id"]: card for card in _get(body, "data")}  # type: ignore[attr-defined]
    assert set(cards) == {"llama", "org/qwen"}
    assert cards["llama"]["max_model_len"] == 9
    assert (await house.ask("GET", "/v1/models/org/qwen"))[0] == 200
    assert (await house.ask("GET", "/v1/models/none"))[0] == 404


@pytest.mark.parametrize("route", ["/model_info", "/get_model_info"])
@pytest.mark.parametrize("theirs", ["/model_info", "/get_model_info"])
async def test_model_info_comes_from_a_decode_of_either_generation(
    house: House, route: str, theirs: str
) -> None:
    await house.open()
    await _pair(house, decode={theirs: (200, {"model_path": "m", "api_key": "sk"})})
    status, body, _ = await house.ask("GET", route)
    assert (status, body) == (200, {"model_path": "m", "api_key": "***"})


@pytest.mark.parametrize("route", ["/server_info", "/get_server_info"])
async def test_server_info_has_mini_lbs_shape_and_no_secret(house: House, route: str) -> None:
    await house.open()
    await house.engine(Role.PREFILL, {"/get_server_info": (200, {"tp_size": 8, "admin_api_key": "sk-1"})})
    told = {
        "api_key": "sk-2",
        "hf_token": "sk-3",
        "launch_command": "--model-path m --api-key sk-5",
        "max_total_num_tokens": 7,
        "nested": [{"password": "sk-4"}],
    }
    await house.engine(
        Role.DECODE, {"/server_info": (200, {**told, "internal_states": [{"avg_spec_accept_length": 2}]})}
    )
    await house.engine(Role.DECODE, {})
    status, body, _ = await house.ask("GET", route)
    assert status == 200
    assert _get(body, "internal_states") == [{"avg_spec_accept_length": 2}]
    assert _get(body, "prefill", 0, "tp_size") == 8
    assert _get(body, "decode", 0, "max_total_num_tokens") == 7
    assert "404" in str(_get(body, "decode", 1, "error"))
    assert "sk-" not in str(body)


async def test_a_worker_is_added_shown_changed_and_taken_away(house: House) -> None:
    await house.open()
    order = {
        "url": "http://10.0.0.9:30000",
        "worker_type": "prefill",
        "bootstrap_port": 8998,
        "model_id": "m",
        "priority": 50,
    }
    status, body, headers = await house.ask("POST", "/workers", order)
    assert (status, headers["Location"]) == (202, "/workers/prefill-10.0.0.9-30000")
    assert _get(body, "worker_id") == "prefill-10.0.0.9-30000"
    _, body, _ = await house.ask("GET", "/workers")
    assert _get(body, "stats") == {"prefill_count": 1, "decode_count": 0, "regular_count": 0}
    assert _get(body, "workers", 0, "worker_type") == "prefill"
    assert _get(body, "workers", 0, "origin") == "api"
    at = "/workers/prefill-10.0.0.9-30000"
    assert (await house.ask("PUT", at, {"state": "draining"}))[0] == 202
    _, body, _ = await house.ask("GET", at)
    assert (_get(body, "is_healthy"), _get(body, "reason")) == (False, "draining")
    assert (await house.ask("GET", "/workers/http%3A%2F%2F10.0.0.9%3A30000"))[0] == 200
    assert (await house.ask("DELETE", at))[0] == 202
    assert (await house.ask("GET", at))[0] == 404


@pytest.mark.parametrize(
    ("order", "named"),
    [
        ({}, "url"),
        ({"url": "10.0.0.9", "worker_type": "decode"}, "url"),
        ({"url": "http://10.0.0.9:1"}, "worker_type"),
        ({"url": "http://10.0.0.9:1", "worker_type": "decode", "bootstrap_port": 99999}, "bootstrap_port"),
        ({"url": "http://10.0.0.9:1", "worker_type": "decode", "tokenizer_path": "x"}, "tokenizer_path"),
        ({"url": "http://10.0.0.9:1", "worker_type": "decode", "priority": 90}, "priority"),
        ({"url": "http://10.0.0.9:1", "worker_type": "decode", "api_key": "k"}, "upstream.api_key"),
    ],
)
async def test_a_wrong_worker_is_refused_by_the_name_of_the_field(
    house: House, order: object, named: str
) -> None:
    await house.open()
    status, body, _ = await house.ask("POST", "/workers", order)
    assert status == 400
    assert named in str(_get(body, "error", "message"))
    assert not list(house.pool.members())


async def test_a_worker_of_the_registry_is_not_changed_here(house: House) -> None:
    await house.open()
    worker = Worker("d", "http://10.0.0.9:1", Role.DECODE, origin=Origin.REGISTRY)
    house.pool.apply([Change("d", worker)])
    assert (await house.ask("DELETE", "/workers/d"))[0] == 409
    assert (await house.ask("PUT", "/workers/d", {"weight": 2}))[0] == 409
    assert house.pool.get("d") is not None


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/flush_cache", "POST"),
        ("/flush_cache", "GET"),
        ("/start_profile", "POST"),
        ("/stop_profile", "POST"),
    ],
)
async def test_an_order_reaches_every_worker_and_half_obeyed_is_a_failure(
    house: House, path: str, method: str
) -> None:
    await house.open()
    good, _ = await _pair(house, {path: (200, "ok")}, {path: (200, "ok")})
    assert (await house.ask(method, path))[0] == 200
    assert good.asked[-1][:2] == ("POST", path)
    bad = await house.engine(Role.DECODE, {path: (400, "busy")})
    status, body, _ = await house.ask(method, path)
    assert status == 502
    failed = [item for item in _get(body, "workers") if not item["ok"]]  # type: ignore[attr-defined]
    assert [(item["worker_id"], item["status"]) for item in failed] == [(bad.worker.worker_id, 400)]


@pytest.mark.parametrize("route", ["/get_load", "/v1/loads"])
async def test_a_load_that_cannot_be_read_is_unknown_and_not_zero(house: House, route: str) -> None:
    await house.open()
    await house.engine(Role.PREFILL, {"/v1/loads": (200, {"loads": [{"num_running_reqs": 3}]})})
    await house.engine(Role.DECODE, {"/get_load": (200, {"load": 5})})
    await house.engine(Role.DECODE, {"/v1/loads": (500, {})})
    _, body, _ = await house.ask("GET", route)
    loads = [item["load"] for item in _get(body, "loads")]  # type: ignore[attr-defined]
    assert loads == [{"loads": [{"num_running_reqs": 3}]}, {"load": 5}, None]


async def test_abort_passes_the_clients_rid_on(house: House) -> None:
    await house.open()
    assert await _status(house, "POST", "/abort_request", {"rid": "mine"}) == 200
    assert await _status(house, "POST", "/abort_request", {"rid": "", "abort_all": True}) == 200
    assert await _status(house, "POST", "/abort_request", {}) == 400
    assert await _status(house, "POST", "/abort_request", {"rid": 7}) == 400
    assert house.aborted == ["mine", ""]


async def test_metrics_and_the_scrape_targets_are_served(house: House) -> None:
    await house.open()
    _, text, headers = await house.ask("GET", "/metrics")
    assert text == "pd_up 1\n"
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    prefill, _ = await _pair(house)
    _, groups, _ = await house.ask("GET", "/sd/prometheus")
    assert _get(groups, 0, "targets") == ["127.0.0.1:30000"]
    assert _get(groups, 1, "targets") == [prefill.worker.url.removeprefix("http://")]
    assert _get(groups, 1, "labels", "role") == "prefill"


async def test_prometheus_is_told_of_the_engine_and_of_pd_worker_beside_it(house: House) -> None:
    told = {
        "plain": "http://10.0.0.1:30090",
        "six": "http://[fd00::1]:4711",
        "secret": "https://10.0.0.3:30090/",
        "none": None,
        "no-url": "10.0.0.4:30090",
        "no-port": "http://10.0.0.5",
        "odd": "http://[fd00::1",
        "its-own-loopback": "http://127.0.0.1:30090",
    }
    workers = [
        Worker(name, "http://10.0.0.9:30000", Role.DECODE, model="Q/3", node="n1", control_url=url)
        for name, url in told.items()
    ]
    house.pool.apply([Change(one.worker_id, one) for one in workers])
    await house.open()
    _, groups, _ = await house.ask("GET", "/sd/prometheus")
    engines, wrappers = (
        {one["labels"]["worker_id"]: one for one in groups if one["labels"]["job"] == job}  # type: ignore[attr-defined]
        for job in ("sglang", "pd-worker")
    )
    assert set(engines) == set(told)
    assert {name: one["targets"] for name, one in wrappers.items()} == {
        "plain": ["10.0.0.1:30090"],
        "six": ["[fd00::1]:4711"],
        "secret": ["10.0.0.3:30090"],
    }
    assert wrappers["secret"]["labels"].pop("__scheme__") == "https"
    assert wrappers["secret"]["labels"] == {
        "job": "pd-worker",
        "worker_id": "secret",
        "role": "decode",
        "model": "Q/3",
        "node": "n1",
    }


async def test_reading_needs_the_api_key_but_health_and_metrics_do_not(house: House) -> None:
    await house.open(api_key="k1")
    for path in ("/health", "/liveness", "/metrics"):
        assert await _status(house, "GET", path) == 200
    assert await _status(house, "GET", "/workers") == 401
    assert await _status(house, "GET", "/workers", Authorization="Bearer wrong") == 401
    assert await _status(house, "GET", "/workers", Authorization="Bearer k1") == 200


async def test_only_loopback_or_the_admin_key_changes_anything(house: House) -> None:
    # A proxy on this host speaks for somebody elsewhere: that is no loopback peer.
    far = {"X_Forwarded_For": "10.1.2.3"}
    await house.open()
    assert await _status(house, "POST", "/abort_request", {"rid": "a"}, **far) == 403
    await house.open(admin_key="root")
    assert await _status(house, "POST", "/abort_request", {"rid": "a"}, **far) == 401
    assert await _status(house, "POST", "/abort_request", {"rid": "a"}, X_Admin_Key="no", **far) == 401
    assert house.aborted == []
    assert await _status(house, "POST", "/abort_request", {"rid": "a"}, X_Admin_Key="root", **far) == 200
    assert (
        await _status(house, "POST", "/abort_request", {"rid": "b"}, Authorization="Bearer root", **far)
        == 200
    )
    assert house.aborted == ["a", "b"]


async def test_a_body_that_is_too_large_or_no_json_is_told_so(house: House) -> None:
    await house.open(max_body_bytes=100)
    assert await _status(house, "POST", "/abort_request", {"rid": "x" * 200}) == 413
    assert await _status(house, "POST", "/abort_request", ["rid"]) == 400


async def _status(house: House, method: str, path: str, body: object = None, **headers: str) -> int:
    return (await house.ask(method, path, body, **headers))[0]
