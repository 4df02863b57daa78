"""Bytes to what routing needs: a few fields are decoded, everything else stays as it came."""

from __future__ import annotations

import re

import msgspec

from proxy.errors import BadRequest
from proxy.flow.request import Intake, Route

_ABSENT = msgspec.Raw()
_LESS_THAN_A_CHARACTER = tuple(msgspec.Raw(b"%d" % tokens) for tokens in range(4))
_NULL, _ZERO, _FALSE = msgspec.Raw(b"null"), msgspec.Raw(b"0"), msgspec.Raw(b"false")
_AT = re.compile(r" - at `\$\.?([A-Za-z_]+)?")


class _Sampling(msgspec.Struct):
    n: int | None = None
    max_new_tokens: msgspec.Raw = _ABSENT


class _Generate(msgspec.Struct):
    text: msgspec.Raw = _ABSENT
    input_ids: msgspec.Raw = _ABSENT
    input_embeds: msgspec.Raw = _ABSENT
    sampling_params: _Sampling | list[msgspec.Raw] | None = None
    stream: bool | None = None
    rid: str | list[str] | None = None
    return_logprob: bool | list[bool] | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Completions(msgspec.Struct):
    prompt: msgspec.Raw = _ABSENT
    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    rid: str | list[str] | None = None
    n: int | None = None
    echo: bool | None = None
    logprobs: msgspec.Raw = _ABSENT
    max_tokens: msgspec.Raw = _ABSENT


class _Chat(msgspec.Struct):
    messages: msgspec.Raw = _ABSENT
    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    rid: str | list[str] | None = None
    n: int | None = None
    max_tokens: msgspec.Raw = _ABSENT
    max_completion_tokens: msgspec.Raw = _ABSENT


class _OnlySampling(msgspec.Struct):
    sampling_params: msgspec.Raw = _ABSENT


_decode_generate = msgspec.json.Decoder(_Generate).decode
_decode_completions = msgspec.json.Decoder(_Completions).decode
_decode_chat = msgspec.json.Decoder(_Chat).decode
_decode_one_sampling = msgspec.json.Decoder(_Sampling).decode
_decode_only_sampling = msgspec.json.Decoder(_OnlySampling).decode


def read_intake(route: Route, body: bytes, largest_n: int) -> Intake:
    """Reads the fields that the proxy uses.

    Args:
        route: which fields those are.
        body: the client's, whole.
        largest_n: how many answers a request may ask for each prompt.

    Raises:
        BadRequest: no JSON object, no prompt, or a wrong type of one of those fields.
    """
    try:
        intake = _READERS[route](body)
    except msgspec.ValidationError as error:
        raise _wrong_type(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply to be read") from None
    if not 1 <= intake.n <= largest_n:
        raise BadRequest(f"n is {intake.n}; it must be from 1 to {largest_n}", param="n")
    return intake


def _wrong_type(message: str) -> BadRequest:
    at = _AT.search(message)
    if at is None:
        return BadRequest(f"the body must be a JSON object: {message}")
    return BadRequest(f"a field of the body has the wrong type: {message}", param=at.group(1))


def _missing(raw: msgspec.Raw) -> bool:
    return not raw or raw == _NULL


def _read_generate(body: bytes) -> Intake:
    parsed = _decode_generate(body)
    if _missing(parsed.text) and _missing(parsed.input_ids) and _missing(parsed.input_embeds):
        raise BadRequest("one of text, input_ids and input_embeds must be given", param="text")
    sampling = parsed.sampling_params
    if isinstance(sampling, list):
        # SGLang takes n of a list's first item for all.
        sampling = _decode_one_sampling(sampling[0]) if sampling else None
    n = 1 if sampling is None or sampling.n is None else sampling.n
    logprobs = parsed.return_logprob
    return Intake(
        model=None,
        stream=parsed.stream is True,
        rid=parsed.rid,
        n=n,
        wants_input_logprobs=any(logprobs) if isinstance(logprobs, list) else logprobs is True,
        zero_tokens=sampling is not None and sampling.max_new_tokens == _ZERO,
        include_usage=False,
        sampling_params=bytes(_decode_only_sampling(body).sampling_params) if n > 1 else None,
    )


def _read_completions(body: bytes) -> Intake:
    parsed = _decode_completions(body)
    if _missing(parsed.prompt):
        raise BadRequest("prompt must be given", param="prompt")
    logprobs = not (_missing(parsed.logprobs) or parsed.logprobs == _FALSE)
    return Intake(
        model=parsed.model,
        stream=parsed.stream is True,
        rid=parsed.rid,
        n=1 if parsed.n is None else parsed.n,
        wants_input_logprobs=parsed.echo is True and logprobs,
        zero_tokens=parsed.max_tokens in _LESS_THAN_A_CHARACTER,
        include_usage=parsed.stream_options is not None and parsed.stream_options.include_usage is True,
        sampling_params=None,
    )


def _read_chat(body: bytes) -> Intake:
    parsed = _decode_chat(body)
    if _missing(parsed.messages):
        raise BadRequest("messages must be given", param="messages")
    if bytes(memoryview(parsed.messages)[:1]) != b"[":
        raise BadRequest("messages must be a list", param="messages")
    return Intake(
        model=parsed.model,
        stream=parsed.stream is True,
        rid=parsed.rid,
        n=1 if parsed.n is None else parsed.n,
        wants_input_logprobs=False,
        zero_tokens=parsed.max_tokens in _LESS_THAN_A_CHARACTER
        or parsed.max_completion_tokens in _LESS_THAN_A_CHARACTER,
        include_usage=parsed.stream_options is not None and parsed.stream_options.include_usage is True,
        sampling_params=None,
    )


_READERS = {
    Route.GENERATE: _read_generate,
    Route.COMPLETIONS: _read_completions,
    Route.CHAT_COMPLETIONS: _read_chat,
}
