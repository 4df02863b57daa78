"""Logs: one JSON object a line, whoever says it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from proxy.telemetry.logs import RequestLine, configure


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


LINE = RequestLine(
    request_id='a"b', route="generate", method="POST", status=200, outcome="ok", duration_ms=1.5, rids=("r1",)
)


def test_a_request_is_one_json_line() -> None:
    stream = io.StringIO()
    configure("info", "json", stream).write(LINE)
    (line,) = stream.getvalue().splitlines()
    said = json.loads(line)
    assert (said["event"], said["level"], said["request_id"], said["rids"]) == (
        "request",
        "info",
        'a"b',
        ["r1"],
    )
    assert said["timestamp"].endswith("+00:00")
    assert "prefill" not in said


def test_a_request_is_one_line_on_a_console() -> None:
    stream = io.StringIO()
    configure("info", "console", stream).write(LINE)
    (line,) = stream.getvalue().splitlines()
    assert "request" in line
    assert "outcome=ok" in line


@pytest.mark.parametrize(
    ("level", "enabled"), [("debug", True), ("info", True), ("warning", False), ("error", False)]
)
def test_request_lines_are_off_above_info(level: str, enabled: bool) -> None:
    assert configure(level, "json", io.StringIO()).enabled is enabled


def test_the_standard_library_and_structlog_speak_the_same_json() -> None:
    stream = io.StringIO()
    configure("warning", "json", stream)
    logging.getLogger("aiohttp").warning("slow %s", "peer")
    structlog.get_logger("proxy").error("lost", worker="p0", odd=object)
    structlog.get_logger("proxy").info("unheard")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["event"], first["level"], first["logger"]) == ("slow peer", "warning", "aiohttp")
    assert (second["event"], second["worker"], second["logger"]) == ("lost", "p0", "proxy")
