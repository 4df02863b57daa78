"""What events tell of failures."""

from __future__ import annotations

import json

import pytest

from proxy.roster import Role
from proxy.upstream.classify import Judge, plainly_good
from proxy.upstream.outcome import Failure, Outcome


def judged(message: str, code: int | None, *, generate: bool = False) -> Failure:
    error = {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": code}
    verdict = Judge(generate, Role.DECODE).event(json.dumps({"error": error}).encode())
    assert isinstance(verdict, Failure)
    return verdict


@pytest.mark.parametrize(
    ("message", "outcome", "status"),
    [
        ("500: out of memory", Outcome.ENGINE_ERROR, 500),
        ("503: The request queue is full.", Outcome.REJECTED, 503),
        ("500: Decode transfer failed for request rank=0", Outcome.KV_TRANSFER, 502),
        ("temperature must be non-negative, got -1.", Outcome.BAD_REQUEST, 400),
        ("The input (500 tokens) is longer than 500: the limit", Outcome.BAD_REQUEST, 400),
        ("400: no", Outcome.BAD_REQUEST, 400),
    ],
)
def test_a_completion_of_0_5_2_tells_the_true_status_in_its_message(
    message: str, outcome: Outcome, status: int
) -> None:
    failure = judged(message, 400)
    assert (failure.outcome, failure.status) == (outcome, status)


@pytest.mark.parametrize(
    ("text", "note", "plainly"),
    [
        ("", None, True),
        ('a model may say "abort", "error" and "completion_tokens":0', None, True),
        ("", "abort", False),
    ],
)
def test_a_whole_answer_is_good_unless_it_says_otherwise(text: str, note: str | None, plainly: bool) -> None:
    meta = {"finish_reason": {"type": "stop"}, "completion_tokens": 5, "note": note}
    body = json.dumps({"text": text, "meta_info": meta}).encode()
    assert plainly_good(200, body) is plainly
    assert Judge(True, Role.DECODE).whole(200, body) is None


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ('{"text":"","meta_info":{"finish_reason":{"type":"abort","status_code":500}}}', "engine_error"),
        ('[{"text":"a"},{"meta_info":{"finish_reason":{"type":"abort","status_code":503}}}]', "engine_error"),
        ('{"error":{"message":"out of memory","code":500}}', "engine_error"),
        (
            '{"meta_info":{"finish_reason":{"type":"length"},"completion_tokens":0}}',
            "length_zero",
        ),
        ("", "empty"),
    ],
)
def test_a_whole_answer_of_200_may_tell_of_a_failure(answer: str, outcome: str) -> None:
    assert not plainly_good(200, answer.encode())
    failure = Judge(True, Role.DECODE).whole(200, answer.encode())
    assert failure is not None
    assert failure.outcome == outcome


def test_a_status_that_is_no_400_is_true() -> None:
    assert judged("500: as a client may write", 404).outcome is Outcome.BAD_REQUEST
