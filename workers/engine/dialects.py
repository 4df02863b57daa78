"""How a completion and a chat tell the same jobs: whole answers and chunks, key by key as captured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from workers.engine.jobs import Job
from workers.engine.openai_body import echoes
from workers.engine.oracle import detokenize


def usage(jobs: list[Job], modern: bool) -> dict[str, Any]:
    """Tokens of a request: the n copies of a prompt count their prompt once."""
    copies = jobs[0].sampling.n
    prompt = sum(len(job.ids) for job in jobs[::copies])
    output = sum(len(job.output_ids) for job in jobs)
    told: dict[str, Any] = {
        "prompt_tokens": prompt,
        "total_tokens": prompt + output,
        "completion_tokens": output,
        "prompt_tokens_details": None,
    }
    if modern:
        told |= {"reasoning_tokens": 0, "completion_tokens_details": None}
    return told


def finish(job: Job) -> str | None:
    """OpenAI's finish reason."""
    return None if job.finish is None else str(job.finish["type"])


@dataclass(slots=True)
class _Dialect:
    rid: str
    created: int
    model: str
    body: Mapping[str, Any]
    modern: bool
    texts: dict[int, int] = field(default_factory=dict)
    """Characters sent, by choice."""
    tokens: dict[int, int] = field(default_factory=dict)
    """Tokens whose log probabilities were sent, by choice."""

    @property
    def _tells_ids(self) -> bool:
        return self.modern and bool(self.body.get("return_token_ids"))

    def _envelope(self, kind: str, choices: list[Any], more: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "id": self.rid,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **more,
        }

    def _wants_usage(self, kind: str) -> bool:
        return bool((self.body.get("stream_options") or {}).get(kind))

    def _so_far(self, job: Job) -> dict[str, Any] | None:
        """The usage in the middle of a stream, where it is asked for; that of the one choice."""
        if not (self.modern and self._wants_usage("continuous_usage_stats")):
            return None
        return usage([job], self.modern)

    def _metadata(self, jobs: list[Job]) -> dict[str, Any]:
        told: dict[str, Any] = {"weight_version": "default"}
        if self.modern:
            count = len(jobs[0].output_ids)
            told["weight_versions"] = [{"version": "default", "start": 0, "end": count}]
        return told

    def _news(self, job: Job) -> tuple[str, int]:
        """Text that was not sent yet, and the first token that was not told yet."""
        sent, told = self.texts.get(job.index, 0), self.tokens.get(job.index, 0)
        self.texts[job.index] = max(sent, len(job.shown))
        self.tokens[job.index] = len(job.output_ids)
        return job.shown[sent:], told


@dataclass(slots=True)
class Completions(_Dialect):
    """/v1/completions."""

    def answer(self, jobs: list[Job]) -> dict[str, Any]:
        """The whole answer."""
        choices = []
        for job in jobs:
            choice = {
                "index": job.index,
                "text": self._echo(job) + job.text,
                "logprobs": self._logprobs(job, 0, with_input=True),
                "finish_reason": finish(job),
                "matched_stop": job.matched_stop,
            }
            if self._tells_ids:
                choice |= {"token_ids": job.output_ids, "prompt_token_ids": job.ids}
            choices.append(choice)
        more = {"usage": usage(jobs, self.modern), "metadata": self._metadata(jobs)}
        return self._envelope("text_completion", choices, more)

    def frame(self, choices: list[Any], more: Mapping[str, Any]) -> dict[str, Any]:
        """One chunk."""
        return self._envelope("text_completion", choices, more)

    def chunks(self, job: Job) -> Iterator[dict[str, Any]]:
        """What is new of a job: every event is a chunk, even without text."""
        first = job.index not in self.texts
        text, told = self._news(job)
        choice = {
            "index": job.index,
            "text": self._echo(job) + text if first else text,
            "logprobs": self._logprobs(job, told, with_input=first),
            "finish_reason": finish(job),
            "matched_stop": job.matched_stop,
        }
        if self._tells_ids:
            choice["token_ids"] = job.output_ids[told:]
            if first:
                choice["prompt_token_ids"] = job.ids
        yield self.frame([choice], {"usage": self._so_far(job)})

    def last(self, jobs: list[Job]) -> Iterator[dict[str, Any]]:
        """What is told behind all choices."""
        if self._wants_usage("include_usage"):
            told = usage(jobs, self.modern)
            if self.modern:
                told = {name: value for name, value in told.items() if not name.endswith("_details")}
            yield self.frame([], {"usage": told})

    def _echo(self, job: Job) -> str:
        return echoes(self.body)[job.index // job.sampling.n] if self.body.get("echo") else ""

    def _logprobs(self, job: Job, first: int, with_input: bool) -> dict[str, Any] | None:
        if job.logprobs is None:
            return None
        entries, tops = job.output_logprobs[first:], job.output_top_logprobs[first:]
        if with_input and self.body.get("echo"):
            entries, tops = job.input_logprobs + entries, job.input_top_logprobs + tops
        return {
            "text_offset": [-1] * len(entries),
            "token_logprobs": [value for value, _, _ in entries],
            "tokens": [text for _, _, text in entries],
            "top_logprobs": [
                None if top is None else {text: value for value, _, text in top} for top in tops
            ],
        }


@dataclass(slots=True)
class Chat(_Dialect):
    """/v1/chat/completions."""

    def answer(self, jobs: list[Job]) -> dict[str, Any]:
        """The whole answer."""
        choices = []
        for job in jobs:
            message: dict[str, Any] = {
                "role": "assistant",
                "content": job.text,
                "reasoning_content": None,
            }
            if not self.modern:
                message["tool_calls"] = None
            choice = {
                "index": job.index,
                "message": message,
                "logprobs": self._logprobs(job, 0),
                "finish_reason": finish(job),
                "matched_stop": job.matched_stop,
            }
            if self._tells_ids:
                choice |= {"prompt_token_ids": job.ids, "response_token_ids": job.output_ids}
            choices.append(choice)
        more = {"usage": usage(jobs, self.modern), "metadata": self._metadata(jobs)}
        return self._envelope("chat.completion", choices, more)

    def frame(self, choices: list[Any], more: Mapping[str, Any]) -> dict[str, Any]:
        """One chunk."""
        if not self.modern:
            more = {"usage": None, **more}
        return self._envelope("chat.completion.chunk", choices, more)

    def chunks(self, job: Job) -> Iterator[dict[str, Any]]:
        """What is new of a job: the role once, text if there is any, the end."""
        first = job.index not in self.texts
        text, told = self._news(job)
        if first:
            yield self._chunk(job, {"role": "assistant", "content": ""})
        if text:
            so_far = self._so_far(job)
            chunk = self._chunk(job, {"content": text}, self._logprobs(job, told))
            yield chunk if so_far is None else {**chunk, "usage": so_far}
        # The log probabilities of tokens without text are told to nobody, as in SGLang.
        if job.finish is not None:
            yield self._chunk(job, {}, end=True)

    def last(self, jobs: list[Job]) -> Iterator[dict[str, Any]]:
        """What is told behind all choices: ids, where they are asked for, and usage."""
        ids: dict[str, Any] = {}
        if self.body.get("return_input_ids_in_sglext"):
            ids["input_ids"] = jobs[0].ids
        if self.body.get("return_output_ids_in_sglext"):
            ids["output_ids"] = [job.output_ids for job in jobs]
        if ids and self.modern:
            yield self.frame([], {"usage": None, "sglext": ids})
        if self._wants_usage("include_usage"):
            yield self.frame([], {"usage": usage(jobs, self.modern)})

    def _chunk(
        self, job: Job, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, end: bool = False
    ) -> dict[str, Any]:
        if self.modern:
            delta = {"reasoning_content": None, **delta}
        else:
            delta = {"role": None, "content": None, **delta, "reasoning_content": None, "tool_calls": None}
        choice = {
            "index": job.index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish(job) if end else None,
            "matched_stop": job.matched_stop if end else None,
        }
        return self.frame([choice], {})

    def _logprobs(self, job: Job, first: int) -> dict[str, Any] | None:
        if job.logprobs is None:
            return None
        tops = job.output_top_logprobs[first:] or [[]] * len(job.output_logprobs[first:])
        return {
            "content": [
                {
                    **_token(value, token),
                    "top_logprobs": [_token(other_value, other) for other_value, other, _ in top],
                }
                for (value, token, _), top in zip(job.output_logprobs[first:], tops, strict=True)
            ]
        }


def _token(value: float, token: int) -> dict[str, Any]:
    text = detokenize([token])
    return {"token": text, "bytes": list(text.encode()), "logprob": value}
