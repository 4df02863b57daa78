"""Tests run on the event loop that the proxy and the workers run on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import uvloop
from hypothesis import settings

# A law that is slow to look at is no broken law, and the machine may be busy.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """pytest-asyncio: how each test's loop is made."""
    return {"uvloop": uvloop.new_event_loop}
