"""What the three data routes share: running jobs side by side, and errors in SGLang's shapes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from proxy.clock import Clock
from workers.engine.config import EngineConfig
from workers.engine.faults import Fault
from workers.engine.jobs import Failure, Job
from workers.engine.protocol import Invalid
from workers.engine.recorder import Recorder
from workers.engine.runner import Emit, Runner
from workers.engine.scheduler import Scheduler
from workers.engine.wire import FAULT, error_object, plain

_SOURCE = "/sgl-workspace/sglang/python/sglang/srt/entrypoints/http_server.py"
_LINES = {
    "/generate": (928, "generate_request"),
    "/v1/completions": (1852, "openai_v1_completions"),
    "/tokenize": (1906, "openai_v1_tokenize"),
    "/detokenize": (1924, "openai_v1_detokenize"),
}
_CHAT_LINE = (1870, "openai_v1_chat_completions")


@dataclass(slots=True)
class Desk:
    """What a data route needs of the engine."""

    config: EngineConfig
    clock: Clock
    runner: Runner
    scheduler: Scheduler
    recorder: Recorder
    die: Any
    """Callable[[], None]: ends the process as SIGKILL would."""

    async def run(self, jobs: list[Job], emit: Emit) -> None:
        """Runs all jobs of a request to their ends, side by side."""
        if len(jobs) == 1:
            await self.runner.run(jobs[0], emit)
            return
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(self.runner.run(job, emit))


async def ignore(job: Job) -> None:
    """An `Emit` for answers that are sent whole."""


def picked(request: web.Request) -> Fault | None:
    """The fault that the middleware drew for this request."""
    return request.get(FAULT)


def validation_error(request: web.Request, error: Invalid, modern: bool) -> web.Response:
    """FastAPI's 400 as SGLang words it."""
    listed = str(error.errors)
    if not modern:
        return plain(error_object(listed, "Bad Request", 400), 400)
    line, function = _LINES.get(request.path, _CHAT_LINE)
    count = len(error.errors)
    head = f"{count} validation error{'s' if count > 1 else ''}:\n"
    message = (
        head
        + "".join(f"  {one}\n" for one in error.errors)
        + f'\n  File "{_SOURCE}", line {line}, in {function}\n    {request.method} {request.path} {listed}'
    )
    return plain(error_object(message, "Bad Request", 400), 400)


def scheduler_error(failure: Failure) -> web.Response:
    """A failed request that is not streamed: /generate tells a 400 in its own form, the rest as others do."""
    status = failure.status or 500
    if status == 400:
        return plain({"error": {"message": failure.message}}, 400)
    return plain(error_object(failure.message, str(status), status), status)


def first_failure(jobs: list[Job]) -> Failure | None:
    """The failure that a whole answer tells: a user's own abort (no status) is none."""
    return next((j.failure for j in jobs if j.failure is not None and j.failure.status is not None), None)
