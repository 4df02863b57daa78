"""Which headers and keys reach the workers, and which come back."""

from __future__ import annotations

import json

import pytest

from tests.flow.scripted import ANSWER, Visit, ask, post, start_stage, whole
from tests.flow.talk import GENERATE, PROMPT, body_for, start_fleet

STAYS = [
    b"Connection: keep-alive, X-Hop",
    b"X-Hop: 1",
    b"Keep-Alive: 5",
    b"Proxy-Authenticate: a",
    b"Proxy-Authorization: a",
    b"Proxy-Connection: a",
    b"TE: trailers",
    b"Trailer: X",
    b"Upgrade: h2c",
    b"Expect: 100-continue",
    b"Accept-Encoding: gzip",
]
GOES_ON = [
    b"Authorization: Bearer mine",
    b"User-Agent: curl",
    b"X-Custom: a, b",
    b"traceparent: 00-aa-bb-01",
    b"Content-Type: application/json",
]


def lines_of(head: bytes) -> list[bytes]:
    return head.lower().split(b"\r\n")[1:-2]


async def test_hop_by_hop_headers_stay_and_all_others_go_on_to_both() -> None:
    async with start_stage() as stage:
        assert (await ask(stage.proxy, post(b'{"text":"a"}', *STAYS, *GOES_ON))).status == 200
        for worker in (stage.prefill, stage.decode):
            lines = lines_of(worker.visits[0].head)
            names = [line.partition(b":")[0] for line in lines]
            for line in GOES_ON:
                assert line.lower() in lines
            for line in STAYS:
                assert line.lower() not in lines
            assert b"x-hop" not in names
            assert names.count(b"host") == names.count(b"content-length") == 1
            assert b"host: 127.0.0.1:%d" % worker.worker.port in lines


@pytest.mark.parametrize("said", [None, b"application/json; charset=utf-8", b"text/plain"])
async def test_a_body_of_no_type_goes_on_as_json_and_any_other_as_it_is(said: bytes | None) -> None:
    async with start_stage() as stage:
        lines = () if said is None else (b"Content-Type: " + said,)
        assert (await ask(stage.proxy, post(b'{"text":"a"}', *lines))).status == 200
        for worker in (stage.prefill, stage.decode):
            types = [one for one in lines_of(worker.visits[0].head) if one.startswith(b"content-type")]
            assert types == [b"content-type: " + (said or b"application/json")]


async def test_the_engine_sees_what_the_client_sent() -> None:
    async with start_fleet() as fleet:
        async with fleet.http.post(
            GENERATE, json=body_for(GENERATE), headers={"X-Custom": "a", "Expect": "", "TE": "x"}
        ) as answer:
            assert answer.status == 200
        for engine in fleet.engines:
            seen = (await engine.state())["requests"][0]
            headers = dict(seen["headers"])
            assert headers["x-custom"] == "a"
            assert not headers.keys() & {"te", "expect", "accept-encoding", "transfer-encoding"}


@pytest.mark.parametrize("given", ["abc-123", "x" * 128])
async def test_a_request_id_is_taken_over_sent_on_and_returned(given: str) -> None:
    async with start_stage() as stage:
        answer = await ask(stage.proxy, post(b'{"text":"a"}', b"X-Request-Id: " + given.encode()))
        assert answer.headers["x-request-id"] == given
        for worker in (stage.prefill, stage.decode):
            assert lines_of(worker.visits[0].head).count(b"x-request-id: " + given.encode()) == 1
        assert stage.proxy.lines[0]["request_id"] == given


@pytest.mark.parametrize("given", [b"", b"x" * 129, b"\xff\xfe", b"a\tb"])
async def test_a_malformed_request_id_is_replaced(given: bytes) -> None:
    async with start_stage() as stage:
        made = (await ask(stage.proxy, post(b'{"text":"a"}', b"X-Request-Id: " + given))).headers[
            "x-request-id"
        ]
        assert len(made) == 32
        int(made, 16)
        assert b"x-request-id: " + made.encode() in lines_of(stage.decode.visits[0].head)


async def test_each_request_without_an_id_gets_one_of_its_own_errors_too() -> None:
    async with start_stage() as stage:
        good, bad, other = [
            (await ask(stage.proxy, post(body))).headers["x-request-id"]
            for body in (b'{"text":"a"}', b"{}", b'{"text":"b"}')
        ]
        assert len({good, bad, other}) == 3


async def test_a_workers_own_request_id_does_not_come_back() -> None:
    async def script(visit: Visit) -> None:
        await visit.say(whole(ANSWER, b"X-Request-Id: workers", b"X-Worker: 7", b"Keep-Alive: timeout=5"))

    async with start_stage(script) as stage:
        answer = await ask(stage.proxy, post(b'{"text":"a"}', b"X-Request-Id: mine"))
        assert answer.headers["x-request-id"] == "mine"
        assert answer.headers["x-worker"] == "7"
        assert "keep-alive" not in answer.headers


async def test_the_workers_key_takes_the_place_of_the_clients() -> None:
    async with start_stage(upstream={"api_key": "fleet"}) as stage:
        await ask(stage.proxy, post(b'{"text":"a"}', b"Authorization: Bearer mine"))
        lines = lines_of(stage.decode.visits[0].head)
        assert [line for line in lines if line.startswith(b"authorization")] == [
            b"authorization: bearer fleet"
        ]


async def test_a_clients_own_bootstrap_keys_are_overridden_and_unknown_keys_are_untouched() -> None:
    sent = (
        b'{"bootstrap_host":"evil","bootstrap_port":1,"bootstrap_room":2,"rid":"mine",'
        b'"text":"a", "new_key" : {"deep":[1.50, 1e5]} }  '
    )
    async with start_stage() as stage:
        assert (await ask(stage.proxy, post(sent))).status == 200
        prefill, decode = stage.prefill.visits[0], stage.decode.visits[0]
        for visit in (prefill, decode):
            assert visit.body.startswith(sent.rstrip()[:-1])
            body = json.loads(visit.body)
            assert body["bootstrap_host"] == "127.0.0.1"
            assert body["bootstrap_port"] == 8998
            assert body["bootstrap_room"] > 2
            assert body["rid"] != "mine"
        assert prefill.body == decode.body, "one room, one rid"


async def test_the_pair_meets_although_the_client_names_another_room() -> None:
    async with start_fleet() as fleet:
        body = body_for(GENERATE, bootstrap_host="10.255.255.1", bootstrap_port=1, bootstrap_room=1)
        async with fleet.http.post(GENERATE, json=body) as answer:
            assert answer.status == 200, PROMPT


async def test_the_query_goes_on() -> None:
    async with start_stage() as stage:
        assert (await ask(stage.proxy, post(path=b"/generate?trace=1&x=%20"))).status == 200
        assert stage.decode.visits[0].head.startswith(b"POST /generate?trace=1&x=%20 HTTP/1.1\r\n")


async def test_each_attempt_has_a_room_of_its_own() -> None:
    async with start_stage() as stage:
        for _ in range(10):
            await ask(stage.proxy, post())
        rooms = {json.loads(visit.body)["bootstrap_room"] for visit in stage.decode.visits}
        assert len(rooms) == 10
        assert all(0 < room < 2**63 for room in rooms)
