"""Bodies in, jobs out: what of a request the engine reads, and how it refuses what is wrong."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from typing import Any

from workers.engine.config import EngineConfig
from workers.engine.faults import Fault
from workers.engine.jobs import BadInput, Job, LogprobWish, Sampling
from workers.engine.oracle import tokenize

_KEYS = """
max_new_tokens stop stop_token_ids stop_regex temperature top_p top_k min_p frequency_penalty
presence_penalty repetition_penalty min_new_tokens n json_schema regex ebnf structural_tag
ignore_eos skip_special_tokens spaces_between_special_tokens no_stop_trim stream_interval logit_bias
sampling_seed custom_params beam_width watermark choice
"""
SAMPLING_KEYS = _KEYS.split()
Body = Mapping[str, Any]


class Invalid(Exception):
    """FastAPI's validation error: a 400 in its own long form."""

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__(str(errors))
        self.errors = errors


class UnknownField(Exception):
    """0.5.23: a sampling parameter that does not exist."""


def parse(raw: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        Invalid: it is none.
    """
    try:
        body = json.loads(raw)
    except ValueError as error:
        position = getattr(error, "pos", 0)
        cause = getattr(error, "msg", str(error))
        raise Invalid(
            [
                {
                    "type": "json_invalid",
                    "loc": ("body", position),
                    "msg": "JSON decode error",
                    "input": {},
                    "ctx": {"error": cause},
                }
            ]
        ) from None
    if not isinstance(body, dict):
        message = "Input should be a valid dictionary or object to extract fields from"
        raise Invalid([{"type": "model_attributes_type", "loc": ("body",), "msg": message, "input": body}])
    return body


def missing(body: Body, name: str) -> Invalid:
    """A required field is not there."""
    return Invalid([{"type": "missing", "loc": ("body", name), "msg": "Field required", "input": dict(body)}])


def wrong(path: tuple[str, ...], kind: str, message: str, value: Any) -> dict[str, Any]:
    """One entry of FastAPI's list."""
    return {"type": kind, "loc": ("body", *path), "msg": message, "input": value}


def value_error(path: tuple[str, ...], message: str, value: Any) -> dict[str, Any]:
    """An entry that a validator of SGLang's own has written."""
    told = wrong(path, "value_error", f"Value error, {message}", value)
    return {**told, "ctx": {"error": ValueError(message)}}


def check_types(body: Body) -> None:
    """The types that /generate insists on.

    Raises:
        Invalid: one is wrong.
    """
    text = body.get("text")
    if text is not None and not isinstance(text, str | list):
        raise Invalid(
            [
                wrong(("text", "str"), "string_type", "Input should be a valid string", text),
                wrong(("text", "list[str]"), "list_type", "Input should be a valid list", text),
            ]
        )
    ids = body.get("input_ids")
    if ids is not None and not isinstance(ids, list):
        raise Invalid([value_error(("input_ids",), f"must be list or null; got {type(ids).__name__}", ids)])
    odd = next((one for one in ids or () if isinstance(one, bool) or not isinstance(one, int | list)), None)
    if odd is not None:
        raise Invalid(
            [value_error(("input_ids",), f"elements must be int or list; got {type(odd).__name__}", ids)]
        )
    room = body.get("bootstrap_room")
    if room is not None and not isinstance(room, list) and (isinstance(room, bool) or not _integral(room)):
        parsing = "Input should be a valid integer, unable to parse string as an integer"
        raise Invalid(
            [
                wrong(
                    ("bootstrap_room", "list[nullable[int]]"),
                    "list_type",
                    "Input should be a valid list",
                    room,
                ),
                wrong(("bootstrap_room", "int"), "int_parsing", parsing, room),
            ]
        )


def _integral(value: Any) -> bool:
    try:
        int(value)
    except (TypeError, ValueError):
        return False
    return True


def sampling(params: Body, modern: bool) -> Sampling:
    """Checked sampling parameters.

    Raises:
        UnknownField: a key does not exist.
        BadInput: a value is out of its range.
    """
    unknown = next((key for key in params if key not in SAMPLING_KEYS), None)
    if unknown is not None:
        known = ", ".join(f"`{key}`" for key in SAMPLING_KEYS)
        raise UnknownField(f"unknown field `{unknown}`, expected one of {known}")
    temperature = params.get("temperature", 1.0)
    if temperature is not None and not (_number(temperature) and 0 <= temperature < math.inf):
        kind = "a non-negative finite number" if modern else "non-negative"
        raise BadInput(f"temperature must be {kind}, got {temperature}.")
    limit = params.get("max_new_tokens", 128)
    limit = 128 if limit is None else limit
    if not isinstance(limit, int) or limit < 0:
        raise BadInput(f"max_new_tokens must be at least 0, got {limit}.")
    least = params.get("min_new_tokens") or 0
    if not 0 <= least <= limit:
        raise BadInput(f"min_new_tokens must be in [0, max_new_tokens({limit})], got {least}.")
    stop = params.get("stop") or ()
    return Sampling(
        max_new_tokens=limit,
        min_new_tokens=least,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        stop_token_ids=frozenset(params.get("stop_token_ids") or ()),
        ignore_eos=bool(params.get("ignore_eos")),
        no_stop_trim=bool(params.get("no_stop_trim")),
        n=params.get("n") or 1,
    )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def prompts(body: Body) -> tuple[list[list[int]], bool]:
    """The prompts as ids, and whether they came as a batch.

    Raises:
        BadInput: there is none, or two.
    """
    text, ids = body.get("text"), body.get("input_ids")
    if text is None and ids is None:
        raise BadInput("Either text, input_ids or input_embeds should be provided.")
    if ids is not None:
        text = None  # both may be there, and the ids are taken
    if isinstance(text, str):
        return [tokenize(text)], False
    if text is not None:
        found = [tokenize(str(one)) for one in text]
        batch = True
    else:
        assert isinstance(ids, list)
        batch = bool(ids) and isinstance(ids[0], list)
        found = ids if batch else [ids]
    if not found or (any(not one for one in found) and ids is not None):
        raise BadInput("input_ids cannot be empty.")
    return found, batch


def _one_of(value: Any, index: int) -> Any:
    return value[index] if isinstance(value, list) else value


def jobs(body: Body, config: EngineConfig, fault: Fault | None, now: float) -> tuple[list[Job], bool]:
    """The jobs of a /generate body, n for each prompt, and whether they came as a batch.

    Raises:
        BadInput, UnknownField: see `sampling` and `prompts`.
    """
    found, batch = prompts(body)
    made: list[Job] = []
    for position, ids in enumerate(found):
        wish = sampling(_one_of(body.get("sampling_params"), position) or {}, config.modern)
        _check_length(ids, wish, config)
        for copy in range(wish.n):
            number = position * wish.n + copy
            made.append(
                Job(
                    rid=_rid(body.get("rid"), number, many=len(found) * wish.n > 1),
                    ids=ids,
                    sampling=wish,
                    index=number,
                    room=_room(body.get("bootstrap_room"), position),
                    bootstrap_host=_one_of(body.get("bootstrap_host"), position),
                    bootstrap_port=_one_of(body.get("bootstrap_port"), position),
                    wanted_dp_rank=body.get("routed_dp_rank", body.get("data_parallel_rank")),
                    logprobs=_logprob_wish(body, position),
                    fault=fault,
                    received_at=now,
                )
            )
    return made, batch or len(made) > 1


def _check_length(ids: list[int], wish: Sampling, config: EngineConfig) -> None:
    limit = config.context_length
    if len(ids) >= limit:
        raise BadInput(
            f"The input ({len(ids)} tokens) is longer than the model's context length ({limit} tokens)."
        )
    if len(ids) + wish.max_new_tokens > limit:
        total = len(ids) + wish.max_new_tokens
        raise BadInput(
            f"Requested token count exceeds the model's maximum context length of {limit} tokens. You "
            f"requested a total of {total} tokens: {len(ids)} tokens from the input messages and "
            f"{wish.max_new_tokens} tokens for the completion."
        )


def _rid(given: Any, number: int, many: bool) -> str:
    if isinstance(given, list) and number < len(given):
        return str(given[number])
    if given is None or isinstance(given, list):
        return uuid.uuid4().hex
    return f"{given}_{number}" if many else str(given)


def _room(given: Any, position: int) -> int | None:
    """A scalar room is expanded: room, room + 1, ... one a prompt (n copies share theirs, as in SGLang)."""
    if isinstance(given, list):
        given = given[position]
        position = 0
    return None if given is None else int(given) + position


def _logprob_wish(body: Body, position: int) -> LogprobWish | None:
    if not _one_of(body.get("return_logprob"), position):
        return None
    start = _one_of(body.get("logprob_start_len"), position)
    return LogprobWish(
        start=-1 if start is None else start,
        top=_one_of(body.get("top_logprobs_num"), position) or 0,
        text=bool(body.get("return_text_in_logprobs")),
    )
