"""Tests run on the event loop that the proxy and the workers run on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """pytest-asyncio: how each test's loop is made."""
    return {"uvloop": uvloop.new_event_loop}
