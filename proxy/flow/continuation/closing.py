"""The last events of a stream that ends by the proxy's own knowledge, in the form of those before."""

from __future__ import annotations

import msgspec

from proxy.flow.events import Members, as_array, as_object, decode_object, encode, raw

OUTPUT_LISTS = (
    "output_token_logprobs",
    "output_top_logprobs",
    "output_token_ids_logprobs",
)
"""What meta_info tells of each token of the output."""
_SAYING = ("role", "content")
_NULL = msgspec.Raw(b"null")


def close_generated(event: Members, reason: object, text: str | None) -> bytes:
    """An event of /generate as the last one.

    Args:
        event: the last one there was; it is told again, with its reason to end.
        reason: the finish reason, as SGLang has it.
        text: all of the text, where events are cumulative; None where they are not, and nothing is new.
    """
    meta = as_object(event.get("meta_info")) or {}
    meta["finish_reason"] = raw(reason)
    if text is None:
        event = {**event, "text": raw(""), "output_ids": raw([])}
        meta.update({name: raw([]) for name in OUTPUT_LISTS if name in meta})
    else:
        event = {**event, "text": raw(text)}
    return encode({**event, "meta_info": raw(meta)})


def close_choice(
    event: Members, reason: str, matched: str | None, *, keeps_text: bool = False
) -> list[bytes]:
    """An event of a completion or a chat as the last one of its choice.

    Args:
        event: its shape is taken.
        reason: the finish reason.
        matched: the stop string.
        keeps_text: whether the event's own text is still to be shown.
    """
    choice = decode_object(as_array(event.get("choices"))[0])
    closing: list[bytes] = []
    delta = as_object(choice.get("delta"))
    if delta is not None or not keeps_text:
        choice.pop("token_ids", None)
    if delta is None:
        if not keeps_text:
            choice |= {"text": raw(""), "logprobs": _NULL}
    else:
        if keeps_text:
            closing.append(encode(event))
        # 0.5.2 has all members in every delta, 0.5.23 those that say something.
        has_all = "tool_calls" in delta
        kept = {name: value for name, value in delta.items() if has_all or name not in _SAYING}
        kept |= dict.fromkeys(_SAYING, _NULL) if has_all else {}
        choice |= {"delta": raw(kept), "logprobs": _NULL}
    choice |= {"finish_reason": raw(reason), "matched_stop": raw(matched)}
    closing.append(encode({**event, "choices": raw([choice])}))
    return closing


def usage_chunk(event: Members, prompt_tokens: int, completion_tokens: int) -> bytes:
    """The chunk that tells the usage of the whole, in the envelope of `event`."""
    usage = {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
        "prompt_tokens_details": None,
    }
    return encode({**event, "choices": raw([]), "usage": raw(usage)})
