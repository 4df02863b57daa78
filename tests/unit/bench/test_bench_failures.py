"""What the client of the failure bench makes of an answer."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from bench.failures import OURS, Case, Result, problems, table
from bench.failures_client import CHAT, GENERATE, Question, Verdict, judge, unchunked

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"
ASKED = Question(GENERATE, "a story", 4)
CHATTED = Question(CHAT, "a story", 4)


def event(**fields: object) -> bytes:
    return b"data: %b\n\n" % json.dumps(fields).encode()


def told(text: str, reason: str | None = "length") -> bytes:
    return event(text=text, meta_info={"finish_reason": reason and {"type": reason}})


def chunks(*payloads: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in payloads)


RIGHT = told(ASKED.answer())


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        (HEAD + chunks(told(ASKED.answer()[:3], None), RIGHT, DONE) + END, Verdict.RIGHT),
        (HEAD + chunks(RIGHT + DONE) + END, Verdict.RIGHT),
        (HEAD + chunks(RIGHT, DONE), Verdict.TRUNCATED),
        (HEAD + chunks(RIGHT, DONE) + END + b"more", Verdict.TRUNCATED),
        (HEAD + chunks(RIGHT[:-1]) + END, Verdict.TRUNCATED),
        (HEAD + END, Verdict.TRUNCATED),
        (b"", Verdict.TRUNCATED),
        (HEAD + chunks(RIGHT) + END, Verdict.NO_DONE),
        (HEAD + chunks(told(ASKED.answer()[:3]), DONE) + END, Verdict.WRONG),
        (HEAD + chunks(DONE) + END, Verdict.WRONG),
        (HEAD + chunks(RIGHT, event(error={"message": "no"}), DONE) + END, Verdict.EVENT),
        (HEAD + chunks(told(ASKED.answer(), "abort"), DONE) + END, Verdict.EVENT),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\n{}", Verdict.STATUS),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\n{", Verdict.TRUNCATED),
    ],
)
def test_an_answer_is_worth_what_it_is(data: bytes, verdict: Verdict) -> None:
    assert judge(data, ASKED) is verdict


def test_a_chats_deltas_are_joined_and_its_abort_is_an_error() -> None:
    def delta(content: str | None, reason: str | None) -> bytes:
        return event(choices=[{"index": 0, "delta": {"content": content}, "finish_reason": reason}])

    text = CHATTED.answer()
    good = chunks(
        delta(None, None), delta(text[:2], None), delta(text[2:], None), delta(None, "length"), DONE
    )
    assert judge(HEAD + good + END, CHATTED) is Verdict.RIGHT
    assert judge(HEAD + chunks(delta(None, None), delta(None, "abort"), DONE) + END, CHATTED) is Verdict.EVENT


def test_a_chunk_longer_than_its_size_is_no_whole_body() -> None:
    assert unchunked(b"3\r\nabcd\r\n0\r\n\r\n") is None
    assert unchunked(b"3\r\nabc\r\n0\r\n\r\n") == b"abc"


WHOLE, FAILING = Case("3P3D", "0.5.2", OURS, 0.0), Case("3P3D", "0.5.2", OURS, 0.05)


def run(goodput: float, left_over: int = 0, **verdicts: int) -> Result:
    return Result(
        Counter({Verdict[name]: count for name, count in verdicts.items()}), goodput, 1.0, left_over
    )


def test_a_run_without_a_loss_misses_no_bar() -> None:
    assert not list(problems(FAILING, {WHOLE: run(3413, RIGHT=9), FAILING: run(3100, RIGHT=9)}))


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (run(3413, RIGHT=9, HUNG=1), "90.00% success: 1 hung"),
        (run(3413, 2, RIGHT=9), "2 requests were left"),
        (run(3000, RIGHT=9), "goodput is 0.88"),
    ],
)
def test_a_missed_bar_is_named(result: Result, told: str) -> None:
    (problem,) = problems(FAILING, {WHOLE: run(3413, RIGHT=9), FAILING: result})
    assert told in problem


def test_the_table_says_where_the_machine_was_too_slow() -> None:
    assert "NOTE" not in table({WHOLE: run(3413, RIGHT=9)}, 1024)
    assert "NOTE: 3P3D, 0.5.2, pd-proxy" in table({WHOLE: run(2000, RIGHT=9)}, 1024)
