"""/tokenize and /detokenize: what they answer, and how they refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from workers.engine.oracle import chat_prompt, detokenize, tokenize
from workers.engine.protocol import Invalid, missing, value_error, wrong
from workers.engine.wire import error_object, plain

Body = Mapping[str, Any]
Answerer = Callable[[Body, int], web.Response]
"""Of a body, and the model's context length."""


def tokenized(body: Body, context_length: int) -> web.Response:
    """Ids of a prompt, of several, or of a chat as its template writes it.

    Raises:
        Invalid: neither or both are there, or of a wrong type.
    """
    prompt, messages = body.get("prompt"), body.get("messages")
    if (prompt is None) == (messages is None):
        raise Invalid(
            [value_error((), "Exactly one of 'prompt' or 'messages' must be provided.", dict(body))]
        )
    if messages == []:
        return plain(error_object("Messages cannot be empty.", "BadRequestError", 400), 400)
    if messages is not None:
        prompt = chat_prompt(messages, bool(body.get("continue_final_message")))
    if isinstance(prompt, str):
        ids = tokenize(prompt)
        return plain({"tokens": ids, "count": len(ids), "max_model_len": context_length})
    if not isinstance(prompt, list):
        raise Invalid(
            [
                wrong(("prompt", "list[str]"), "list_type", "Input should be a valid list", prompt),
                wrong(("prompt", "str"), "string_type", "Input should be a valid string", prompt),
            ]
        )
    lists = [tokenize(one) for one in prompt]
    counts = [len(ids) for ids in lists]
    return plain({"tokens": lists, "count": counts, "max_model_len": context_length})


def detokenized(body: Body, context_length: int) -> web.Response:
    """The text of ids, or of each list of them.

    Raises:
        Invalid: there are none, or of a wrong type.
    """
    if "tokens" not in body:
        raise missing(body, "tokens")
    tokens = body["tokens"]
    if not isinstance(tokens, list):
        kinds = ("list[int]", "list[list[int]]")
        message = "Input should be a valid list"
        raise Invalid([wrong(("tokens", kind), "list_type", message, tokens) for kind in kinds])
    nested = bool(tokens) and isinstance(tokens[0], list)
    if any(token < 0 for ids in (tokens if nested else [tokens]) for token in ids):
        cause = "out of range integral type conversion attempted"
        message = f"Internal server error during detokenization: {cause}"
        return plain(error_object(message, "InternalServerError", 500), 500)
    return plain({"text": [detokenize(ids) for ids in tokens] if nested else detokenize(tokens)})
