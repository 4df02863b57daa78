"""POST /generate."""

from __future__ import annotations

from aiohttp import web

from workers.engine import meta
from workers.engine.answering import Desk, first_failure, ignore, picked, scheduler_error, validation_error
from workers.engine.jobs import BadInput, Job
from workers.engine.protocol import Invalid, UnknownField, check_types, jobs, parse
from workers.engine.recorder import SEEN
from workers.engine.wire import EventStream, plain, whole


class Generate:
    """The route."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Answers one request."""
        desk = self._desk
        raw = await request.read()
        try:
            body = parse(raw)
            desk.recorder.read(request[SEEN], body, len(raw))
            check_types(body)
        except Invalid as error:
            return validation_error(request, error, desk.config.modern)
        try:
            made, batch = jobs(body, desk.config, picked(request), desk.clock.time())
            with desk.scheduler.alive(made):
                if body.get("stream"):
                    return await self._stream(request, made, batch)
                return await self._whole(request, made, batch)
        except BadInput as error:
            if body.get("stream"):
                return await self._refuse_in_stream(request, str(error))
            return plain({"error": {"message": str(error)}}, 400)
        except UnknownField as error:
            return plain({"error": str(error)}, 400)

    async def _whole(self, request: web.Request, made: list[Job], batch: bool) -> web.StreamResponse:
        desk = self._desk
        await desk.run(made, ignore)
        failure = first_failure(made)
        if failure is not None:
            return scheduler_error(failure)
        answers = [meta.answer(job, desk.config, desk.clock.time()) for job in made]
        return await whole(request, picked(request), answers if batch else answers[0], desk.die)

    async def _stream(self, request: web.Request, made: list[Job], batch: bool) -> web.StreamResponse:
        desk = self._desk
        stream = EventStream(request, picked(request), desk.die)
        await stream.open()
        seen = {job.rid: meta.Seen() for job in made}

        async def emit(job: Job) -> None:
            failure = job.failure
            if failure is not None and failure.status is not None and not desk.config.modern:
                if failure.status != 400:
                    await stream.truncate()
                await stream.send(meta.encode({"error": {"message": failure.message}}))
                return
            index = job.index if batch else None
            shown = meta.event(job, desk.config, seen[job.rid], desk.clock.time(), index)
            await stream.send(meta.encode(shown))

        await desk.run(made, emit)
        return await stream.close()

    async def _refuse_in_stream(self, request: web.Request, message: str) -> web.StreamResponse:
        """0.5.2 tells the message alone; both send 200."""
        stream = EventStream(request, None, self._desk.die)
        error: dict[str, object] = {"message": message}
        if self._desk.config.modern:
            error |= {"type": "invalid_request_error", "code": 400, "retryable": False}
        await stream.send(meta.encode({"error": error}))
        return await stream.close()
