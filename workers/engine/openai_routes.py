"""POST /v1/completions and /v1/chat/completions: one walk, two dialects."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from aiohttp import web

from workers.engine.answering import Desk, first_failure, ignore, picked, validation_error
from workers.engine.dialects import Chat, Completions
from workers.engine.jobs import BadInput, Failure, Job
from workers.engine.meta import encode
from workers.engine.openai_body import from_chat, from_completion
from workers.engine.protocol import Invalid, UnknownField, jobs, parse
from workers.engine.recorder import SEEN
from workers.engine.wire import EventStream, error_object, plain, whole

_NO_IDS_IN_STREAMS = (
    "return_token_ids is not supported with streaming on /v1/chat/completions. Please set stream=false when "
    "using return_token_ids=true."
)


class OpenAiRoute:
    """Both routes."""

    def __init__(self, desk: Desk, chat: bool) -> None:
        self._desk = desk
        self._chat = chat

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Answers one request."""
        desk = self._desk
        raw = await request.read()
        try:
            body = parse(raw)
            desk.recorder.read(request[SEEN], body, len(raw))
            inner = from_chat(body) if self._chat else from_completion(body)
        except Invalid as error:
            return validation_error(request, error, desk.config.modern)
        try:
            if self._chat and body["messages"] == []:
                raise BadInput("Messages cannot be empty.")
            if not self._chat and not body["prompt"]:
                raise BadInput("Prompt cannot be empty")
            if self._chat and desk.config.modern and body.get("stream") and body.get("return_token_ids"):
                return plain(error_object(_NO_IDS_IN_STREAMS, "BadRequest", 400), 400)
            made, _ = jobs(inner, desk.config, picked(request), desk.clock.time())
            with desk.scheduler.alive(made):
                if body.get("stream"):
                    return await self._stream(request, body, made)
                return await self._whole(request, body, made)
        except (BadInput, UnknownField) as error:
            return await self._refuse(request, body, str(error))

    def _dialect(self, body: dict[str, Any], made: list[Job]) -> Chat | Completions:
        head = (made[0].rid, int(made[0].received_at), str(body.get("model", self._desk.config.model)))
        kind = Chat if self._chat else Completions
        return kind(*head, body=body, modern=self._desk.config.modern)

    async def _whole(self, request: web.Request, body: dict[str, Any], made: list[Job]) -> web.StreamResponse:
        await self._desk.run(made, ignore)
        failure = first_failure(made)
        if failure is not None:
            status = failure.status or 500
            kind = "BadRequestError" if status == 400 else str(status)
            return plain(error_object(failure.message, kind, status), status)
        answer = self._dialect(body, made).answer(made)
        return await whole(request, picked(request), answer, self._desk.die)

    async def _stream(
        self, request: web.Request, body: dict[str, Any], made: list[Job]
    ) -> web.StreamResponse:
        """0.5.23 sends the head with the first token; 0.5.2 at once."""
        desk, dialect = self._desk, self._dialect(body, made)
        stream = EventStream(request, picked(request), desk.die)
        if not desk.config.modern:
            await stream.open()

        async def emit(job: Job) -> None:
            role_first = job.fault is not None and job.fault.kind == "role_then_abort"
            if job.failure is not None and job.failure.status is not None and not role_first:
                await self._fail_in_stream(stream, job.failure)
                return
            for chunk in dialect.chunks(job):
                await stream.send(encode(chunk))

        await desk.run(made, emit)
        if first_failure(made) is None:
            for last in dialect.last(made):
                await stream.send(encode(last))
        return await stream.close()

    async def _fail_in_stream(self, stream: EventStream, failure: Failure) -> None:
        """0.5.2 truncates chats, and calls all failures of completions bad requests, but in their message."""
        status, message = failure.status or 500, failure.message
        if not self._desk.config.modern and status != 400:
            if self._chat:
                await stream.truncate()
            status, message = 400, f"{status}: {message}"
        kind = "BadRequestError" if status == 400 else HTTPStatus(status).name
        await stream.send(encode({"error": error_object(message, kind, status)}))

    async def _refuse(self, request: web.Request, body: dict[str, Any], message: str) -> web.StreamResponse:
        error = error_object(message, "BadRequestError", 400)
        if body.get("stream") and not self._desk.config.modern:
            stream = EventStream(request, None, self._desk.die)
            await stream.send(encode({"error": error}))
            return await stream.close()
        return plain(error, 400)
