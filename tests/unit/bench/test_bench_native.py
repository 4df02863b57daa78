"""The stub and the load generator, compiled, over real sockets."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import build
from bench.processes import Stub, load_command, stub
from bench.scenarios import SCENARIOS, Scenario, http_request

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")

PLAIN = replace(SCENARIOS["small"], connections=4, window_s=0.2)
STREAM = replace(
    SCENARIOS["stream"], connections=3, window_s=0.1, tokens=8, interval_ms=5.0, ramp_ms=10, with_direct=False
)
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"b\r\ndata: {} \n\n\r\n"
DONE = b"e\r\ndata: [DONE]\n\n\r\n"
END = b"0\r\n\r\n"


@pytest.fixture(scope="module", autouse=True)
def programs() -> None:
    build.compile_programs()


def _load(scenario: Scenario, port: int, folder: Path) -> dict[str, Any]:
    request = folder / "request"
    request.write_bytes(http_request(scenario.body()))
    done = subprocess.run(
        load_command(scenario, request, port, []), capture_output=True, text=True, check=False, timeout=30
    )
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == (report["failures"] > 0)
    return report


def _post(engines: Stub, body: Any, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", engines.decode_port, timeout=10)
    connection.request("POST", "/generate", body, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


@contextmanager
def _server(*answers: bytes) -> Iterator[int]:
    """Answers each connection's first bytes with the next of `answers`, then closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)


def test_the_closed_loop_counts_complete_answers(tmp_path: Path) -> None:
    with stub(PLAIN) as engines:
        report = _load(PLAIN, engines.decode_port, tmp_path)
    assert report["failures"] == 0
    assert 0 < report["requests"] <= report["all_requests"] <= report["requests"] + PLAIN.connections
    assert report["latency_us"]["p50"] <= report["latency_us"]["p99"]


def test_every_event_of_every_stream_arrives(tmp_path: Path) -> None:
    with stub(STREAM) as engines:
        report = _load(STREAM, engines.decode_port, tmp_path)
    assert (report["failures"], report["all_requests"], report["all_events"]) == (0, 3, 24)


def test_events_are_paced(tmp_path: Path) -> None:
    slow = replace(STREAM, interval_ms=40.0, window_s=0.2)
    with stub(slow) as engines:
        report = _load(slow, engines.decode_port, tmp_path)
    assert 30_000 < report["gap_us"]["p50"] < 60_000
    assert report["transit_us"]["p50"] < 30_000


def test_resting_streams_go_on_when_released(tmp_path: Path) -> None:
    resting = replace(STREAM, tokens=4, hold_after=3)
    with stub(resting) as engines:
        request = tmp_path / "request"
        request.write_bytes(http_request(resting.body()))
        command = load_command(resting, request, engines.decode_port, [])
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
            assert load.stdout is not None
            assert json.loads(load.stdout.readline()) == {"open": True}
            time.sleep(0.1)  # ten intervals: a stream that did not rest would have ended
            assert load.poll() is None
            engines.release()
            report = json.loads(load.stdout.readline())
    assert (report["failures"], report["all_events"]) == (0, 12)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (HEAD + EVENT * 2 + END, "without [DONE]"),
        (HEAD + EVENT * 2, "truncated body"),
        (HEAD + EVENT + DONE + END, "wrong number of events"),
        (HEAD + EVENT + b"xyz\r\n", "broken chunked coding"),
        (HEAD + EVENT.removesuffix(b"\r\n") + EVENT, "broken chunked coding"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "503"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "without a length"),
        (b"", "closed before an answer"),
    ],
)
def test_a_broken_answer_is_a_failure(answer: bytes, why: str, tmp_path: Path) -> None:
    scenario = replace(STREAM, connections=1, tokens=2)
    with _server(answer) as port:
        report = _load(scenario, port, tmp_path)
    assert report["failures"] == 1
    assert why in report["first_failure"]


def test_a_whole_stream_in_any_pieces_is_none(tmp_path: Path) -> None:
    scenario = replace(STREAM, connections=2, tokens=2)
    split = (
        HEAD
        + b"5\r\ndata:\r\n8;x=y\r\n {} \n\nda\r\n"
        + b"17\r\nta: {} \n\ndata: [DONE]\n\n\r\n0\r\nTrailer: yes\r\n\r\n"
    )
    with _server(HEAD + EVENT * 2 + DONE + END, split) as port:
        report = _load(scenario, port, tmp_path)
    assert (report["failures"], report["all_events"]) == (0, 4), report["first_failure"]


def test_a_closing_server_is_connected_to_again(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
    scenario = replace(PLAIN, connections=1, window_s=0.5)
    with _server(answer, answer, b"") as port:
        report = _load(scenario, port, tmp_path)
    assert (report["all_requests"], report["reconnects"]) == (2, 2)


def test_the_stub_gives_a_rid_back_as_id() -> None:
    with stub(PLAIN) as engines:
        _, content = _post(engines, b'{"text": "a", "rid": "mine-1"}')
    assert json.loads(content)["meta_info"]["id"] == "mine-1"


@pytest.mark.parametrize("padding", [0, 1_000_000])
def test_the_stub_finds_the_stream_flag_at_the_end_of_a_body(padding: int) -> None:
    body = json.dumps({"text": "x" * padding, "stream": True}).encode()
    with stub(STREAM) as engines:
        response, content = _post(engines, body)
    assert response.getheader("content-type", "").startswith("text/event-stream")
    events = content.decode().removesuffix("\n\n").split("\n\n")
    assert len(events) == STREAM.tokens + 1
    assert events[-1] == "data: [DONE]"
    last = json.loads(events[-2].removeprefix("data: "))
    assert last["meta_info"]["finish_reason"] == {"type": "length", "length": STREAM.tokens}
    assert all(250 <= len(event) <= 350 for event in events[:-1])


def test_the_stub_reads_a_chunked_body() -> None:
    with stub(PLAIN) as engines:
        _, content = _post(engines, iter([b'{"text": "a", "ri', b'd": "in-pieces"}']))
    assert json.loads(content)["meta_info"]["id"] == "in-pieces"


def test_the_prefill_port_answers_a_stream_with_one_event() -> None:
    with stub(STREAM) as engines:
        _, content = _post(replace(engines, decode_port=engines.prefill_port), b'{"stream":true}')
    assert content.count(b"data: ") == 2


def test_the_stub_says_yes_to_any_other_request() -> None:
    with stub(PLAIN) as engines:
        connection = http.client.HTTPConnection("127.0.0.1", engines.decode_port, timeout=10)
        for path in ("/health", "/server_info"):
            connection.request("GET", path)
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, b"{}")
        connection.close()
