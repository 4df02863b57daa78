"""OpenAI bodies as /generate bodies: what of them the engine understands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.engine.oracle import chat_prompt, detokenize
from workers.engine.protocol import Invalid, missing, wrong

Body = Mapping[str, Any]
_CARRIED = (
    "rid",
    "bootstrap_host",
    "bootstrap_port",
    "bootstrap_room",
    "routed_dp_rank",
    "data_parallel_rank",
)
# why: SGLang gives a chat without max_tokens the rest of the context; nobody would wait for that here.
_CHAT_TOKENS = 128
_COMPLETION_TOKENS = 16


def _float(value: Any) -> Any:
    return float(value) if isinstance(value, int) else value


def _common(body: Body, default_tokens: int) -> dict[str, Any]:
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    params = {
        "max_new_tokens": default_tokens if limit is None else limit,
        "min_new_tokens": body.get("min_tokens"),
        "stop": body.get("stop"),
        "stop_token_ids": body.get("stop_token_ids"),
        "temperature": _float(body.get("temperature")),
        "ignore_eos": body.get("ignore_eos"),
        "no_stop_trim": body.get("no_stop_trim"),
        "n": body.get("n"),
    }
    return {
        "sampling_params": {key: value for key, value in params.items() if value is not None},
        **{key: body[key] for key in _CARRIED if key in body},
    }


def _wrong_prompt(kind: str, prompt: Any) -> dict[str, Any]:
    name = "string" if kind == "str" else "list"
    return wrong(("prompt", kind), f"{name}_type", f"Input should be a valid {name}", prompt)


def from_completion(body: Body) -> dict[str, Any]:
    """The /generate body of a completion.

    Raises:
        Invalid: there is no prompt.
    """
    if "prompt" not in body:
        raise missing(body, "prompt")
    prompt = body["prompt"]
    made = _common(body, _COMPLETION_TOKENS)
    if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and isinstance(prompt[0], str)):
        made["text"] = prompt
    elif isinstance(prompt, list):
        made["input_ids"] = prompt
    else:
        lists = ("list[int]", "list[list[int]]", "str", "list[str]")
        raise Invalid([_wrong_prompt(kind, prompt) for kind in lists])
    wanted = body.get("logprobs")
    if wanted is not None:
        made |= {
            "return_logprob": True,
            "top_logprobs_num": wanted,
            "return_text_in_logprobs": True,
            "logprob_start_len": 0 if body.get("echo") else -1,
        }
    return made


def from_chat(body: Body) -> dict[str, Any]:
    """The /generate body of a chat.

    Raises:
        Invalid: there are no messages.
    """
    if "messages" not in body:
        raise missing({**body, **({} if body.get("tools") else {"tool_choice": "none"})}, "messages")
    made = _common(body, _CHAT_TOKENS)
    if body.get("input_ids") is not None:
        made["input_ids"] = body["input_ids"]
    else:
        made["text"] = chat_prompt(body["messages"], bool(body.get("continue_final_message")))
    if body.get("logprobs"):
        made |= {
            "return_logprob": True,
            "top_logprobs_num": body.get("top_logprobs") or 0,
            "return_text_in_logprobs": True,
        }
    return made


def echoes(body: Body) -> list[str]:
    """The prompts as text, for `echo`."""
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list) or not prompt:
        return [""]
    if isinstance(prompt[0], str):
        return list(prompt)
    return [detokenize(ids) for ids in (prompt if isinstance(prompt[0], list) else [prompt])]
