"""What tests/real/record.py asks of real servers, and contract tests of simulated ones."""

from __future__ import annotations

from typing import Any

CHAT, COMPLETIONS, GENERATE = "/v1/chat/completions", "/v1/completions", "/generate"
HI = [{"role": "user", "content": "hi"}]
BEGUN = [*HI, {"role": "assistant", "content": "hello w"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "world"}}\n</tool_call>'


def generate(tokens: int = 4, **more: Any) -> dict[str, Any]:
    """A greedy body of /generate."""
    sampling = {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True}
    return {"text": "hello world", "sampling_params": sampling, **more}


def openai(tokens: int = 4, **more: Any) -> dict[str, Any]:
    """A greedy body of OpenAI's routes."""
    return {"model": "tiny", "temperature": 0, "max_tokens": tokens, "ignore_eos": True, **more}


def chat(tokens: int = 4, **more: Any) -> dict[str, Any]:
    """A greedy chat."""
    return openai(tokens, **{"messages": HI, **more})


USAGE: dict[str, Any] = {
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}
LOGPROBS: dict[str, Any] = {"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2}
ANSWERS: dict[str, tuple[str, dict[str, Any] | bytes | None]] = {
    "tokenize": ("/tokenize", {"prompt": "hello world"}),
    "tokenize_list": ("/tokenize", {"prompt": ["hello", "world"]}),
    "tokenize_chat": ("/tokenize", {"messages": HI}),
    "tokenize_chat_begun": ("/tokenize", {"messages": BEGUN, "continue_final_message": True}),
    "bad_tokenize_both": ("/tokenize", {"prompt": "x", "messages": HI}),
    "bad_tokenize_none": ("/tokenize", {}),
    "bad_tokenize_int": ("/tokenize", {"prompt": 5}),
    "bad_tokenize_notjson": ("/tokenize", b"{"),
    "bad_tokenize_nomsgs": ("/tokenize", {"messages": []}),
    "detokenize": ("/detokenize", {"tokens": [1, 2, 3, 400]}),
    "detokenize_lists": ("/detokenize", {"tokens": [[1, 2], [], [226]]}),
    "detokenize_nothing": ("/detokenize", {"tokens": []}),
    "detokenize_unknown": ("/detokenize", {"tokens": [99999]}),
    "bad_detokenize_text": ("/detokenize", {"tokens": "x"}),
    "bad_detokenize_none": ("/detokenize", {}),
    "bad_detokenize_negative": ("/detokenize", {"tokens": [-1]}),
    "server_info": ("/server_info", None),
    "generate_logprobs": (GENERATE, generate(**LOGPROBS)),
    "generate_logprobs_stream": (GENERATE, generate(**LOGPROBS, stream=True)),
    "generate_batch": (GENERATE, generate(text=["hello world", "a b c"])),
    "generate_batch_stream": (GENERATE, generate(text=["hello world", "a b c"], stream=True)),
    "generate_nothing": (GENERATE, generate(0)),
    "chat": (CHAT, chat()),
    "chat_ids": (CHAT, chat(return_token_ids=True)),
    "chat_by_ids": (CHAT, chat(input_ids=[417, 84, 331, 25, 220])),
    "chat_begun": (CHAT, chat(messages=BEGUN, continue_final_message=True)),
    "chat_logprobs": (CHAT, chat(logprobs=True, top_logprobs=2)),
    "chat_logprobs_stream": (CHAT, chat(logprobs=True, top_logprobs=2, stream=True)),
    "chat_usage_stream": (CHAT, chat(**USAGE)),
    "chat_choices": (CHAT, chat(n=2)),
    "chat_choices_stream": (CHAT, chat(n=2, stream=True)),
    "chat_sglext_stream": (
        CHAT,
        chat(stream=True, return_output_ids_in_sglext=True, return_input_ids_in_sglext=True),
    ),
    "completions": (COMPLETIONS, openai(prompt="hello world")),
    "completions_list": (COMPLETIONS, openai(prompt=["hello world", "a b c"])),
    "completions_ids": (COMPLETIONS, openai(prompt="hello world", return_token_ids=True)),
    "completions_ids_stream": (COMPLETIONS, openai(prompt="hello world", return_token_ids=True, stream=True)),
    "completions_logprobs": (COMPLETIONS, openai(prompt="hello world", logprobs=2, echo=True)),
    "completions_logprobs_stream": (
        COMPLETIONS,
        openai(prompt="hello world", logprobs=2, echo=True, stream=True),
    ),
    "completions_usage_stream": (COMPLETIONS, openai(prompt="hello world", **USAGE)),
    "generate_both_prompts": (GENERATE, generate(input_ids=[1, 2])),
    "bad_ids_empty": (GENERATE, {"input_ids": []}),
    "bad_ids_text": (GENERATE, {"input_ids": "x"}),
    "bad_ids_words": (GENERATE, {"input_ids": ["x"]}),
    "bad_room": (GENERATE, generate(bootstrap_room="x")),
    "bad_top_p": (GENERATE, {"text": "x", "sampling_params": {"top_p": 2}}),
    "bad_min_tokens": (
        GENERATE,
        {"text": "x", "sampling_params": {"min_new_tokens": 9, "max_new_tokens": 2}},
    ),
    "bad_schema": (GENERATE, {"text": "x", "sampling_params": {"json_schema": "{}", "max_new_tokens": 2}}),
    "bad_schema_stream": (
        GENERATE,
        {"text": "x", "stream": True, "sampling_params": {"json_schema": "{}", "max_new_tokens": 2}},
    ),
    "bad_chat_badtemp": (CHAT, chat(temperature=-1)),
    "bad_chat_badtemp_stream": (CHAT, chat(temperature=-1, stream=True)),
    "bad_chat_role": (CHAT, chat(messages=[{"role": "nobody", "content": "x"}])),
    "bad_chat_ids_stream": (CHAT, chat(return_token_ids=True, stream=True)),
    "bad_chat_ids_alone": (CHAT, openai(input_ids=[1, 2])),
    "bad_chat_schema": (CHAT, chat(response_format={"type": "json_object"})),
    "bad_chat_tool": (CHAT, chat(tool_choice="required")),
    "bad_completions_noprompt": (COMPLETIONS, openai()),
    "bad_completions_badtemp": (COMPLETIONS, openai(prompt="x", temperature=-1)),
    "bad_completions_badtemp_stream": (COMPLETIONS, openai(prompt="x", temperature=-1, stream=True)),
    "bad_completions_prompt": (COMPLETIONS, openai(prompt=5)),
    "bad_completions_empty": (COMPLETIONS, openai(prompt=[])),
    "bad_method": (GENERATE, None),
}
"""Of a plain server: path and body; no body is a GET."""

PAIR_ANSWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "generate_logprobs": (GENERATE, generate(**LOGPROBS)),
    "generate_logprobs_stream": (GENERATE, generate(**LOGPROBS, stream=True)),
    "generate_batch_stream": (GENERATE, generate(text=["hello world", "a b c"], stream=True)),
    "generate_nothing": (GENERATE, generate(0)),
    "chat_stream": (CHAT, chat(stream=True)),
    "completions_ids_stream": (COMPLETIONS, openai(prompt="hi", return_token_ids=True, stream=True)),
    "completions_echo": (COMPLETIONS, openai(prompt="hello world", logprobs=1, echo=True)),
}
"""Of a pair: both sides are asked."""
ENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "generate": (GENERATE, generate(1500)),
    "chat": (CHAT, chat(1500)),
    "completions": (COMPLETIONS, openai(1500, prompt="x")),
}
"""Long enough to be aborted, or to find a queue full, or a pair that fails."""
