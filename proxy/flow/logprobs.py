"""What only prefill knows: the log probabilities of the prompt, put into decode's answer."""

from __future__ import annotations

import msgspec

from proxy.flow.events import (
    Members,
    as_array,
    as_object,
    datas,
    decode_array,
    decode_object,
    encode,
    map_events,
    raw,
    whole_number,
)
from proxy.flow.recipient import Amend

_LISTS = ("text_offset", "token_logprobs", "tokens", "top_logprobs")


def merge_prompt_logprobs(prefill_answer: bytes, generate: bool, stream: bool) -> Amend | None:
    """What puts prefill's knowledge into decode's answer; None if prefill's answer has none.

    Args:
        prefill_answer: JSON, or events where `stream`.
        generate: /generate, where it stands in meta_info; else /v1/completions with echo,
            where it stands in each choice's logprobs.
        stream: whether decode's answer comes as events.
    """
    try:
        merge = _into_meta_info(prefill_answer, stream) if generate else _into_choices(prefill_answer, stream)
    except msgspec.DecodeError:
        return None
    if merge is None or not stream:
        return merge
    return lambda events: map_events(events, merge)


def _answers(answer: bytes, stream: bool) -> list[Members]:
    """The answers to each prompt, in order."""
    if stream:
        by_index: dict[int, Members] = {}
        for data in datas(answer):
            event = decode_object(data)
            by_index[whole_number(event.get("index"))] = event
        return [by_index[index] for index in sorted(by_index)]
    if answer.lstrip()[:1] == b"[":
        return [decode_object(item) for item in decode_array(answer)]
    return [decode_object(answer)]


def _into_meta_info(answer: bytes, stream: bool) -> Amend | None:
    known: list[Members] = []
    for one in _answers(answer, stream):
        meta = as_object(one.get("meta_info")) or {}
        known.append({key: value for key, value in meta.items() if key.startswith("input_")})
    if not any(known):
        return None

    def merge_one(item: bytes | msgspec.Raw, index: int) -> bytes:
        event = decode_object(item)
        meta = as_object(event.get("meta_info"))
        index = whole_number(event.get("index"), index)
        if meta is None or index >= len(known):
            return bytes(item)
        event["meta_info"] = raw({**meta, **known[index]})
        return encode(event)

    def merge(data: bytes) -> bytes:
        if data.lstrip()[:1] == b"[":
            items = decode_array(data)
            return b"[%b]" % b",".join(merge_one(item, index) for index, item in enumerate(items))
        return merge_one(data, 0)

    return merge


def _into_choices(answer: bytes, stream: bool) -> Amend | None:
    prompts: dict[int, dict[str, list[msgspec.Raw]]] = {}
    bodies = [decode_object(data) for data in datas(answer)] if stream else [decode_object(answer)]
    for body in bodies:
        for choice in map(decode_object, as_array(body.get("choices"))):
            logprobs = as_object(choice.get("logprobs"))
            index = whole_number(choice.get("index"))
            if logprobs is not None and index not in prompts:
                # Prefill generates one token, whose figures decode tells as well.
                prompts[index] = {key: as_array(logprobs.get(key))[:-1] for key in _LISTS}
    if not any(part["tokens"] for part in prompts.values()):
        return None

    def merge(data: bytes) -> bytes:
        body = decode_object(data)
        choices = [decode_object(choice) for choice in as_array(body.get("choices"))]
        for choice in choices:
            logprobs = as_object(choice.get("logprobs"))
            prompt = prompts.get(whole_number(choice.get("index")))
            if logprobs is not None and prompt is not None:
                lists = {key: [*prompt[key], *as_array(logprobs.get(key))] for key in _LISTS}
                choice["logprobs"] = raw({**logprobs, **lists})
                if stream:
                    # A stream tells each token once: the prompt's with the first event.
                    del prompts[whole_number(choice.get("index"))]
        body["choices"] = raw(choices)
        return encode(body)

    return merge
