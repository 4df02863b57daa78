"""Heads of one kind are parsed once, and each still has its own length."""

from __future__ import annotations

import pytest

from proxy.upstream.templates import Templates

FIELDS = [b"Content-Length", b"content-length"]


class Parser:
    """Parses a head to its size, and counts."""

    def __init__(self) -> None:
        self.parsed: list[bytes] = []

    def __call__(self, head: bytes) -> int:
        self.parsed.append(head)
        return len(self.parsed)  # from 1: what is remembered is true


def head(*lines: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", b""])


@pytest.mark.parametrize("lower_case", [False, True])
@pytest.mark.parametrize("name", FIELDS)
def test_heads_that_differ_in_their_length_alone_are_parsed_once(name: bytes, lower_case: bool) -> None:
    parser = Parser()
    templates = Templates(parser, lower_case=lower_case)
    for length in (0, 7, 123456):
        data = head(b"server: uvicorn", name + b": %d" % length, b"x: y")
        assert templates.read(data + b"body %d" % length, len(data)) == (1, length)
    assert parser.parsed == [head(b"server: uvicorn", name + b": 0", b"x: y")]


def test_heads_that_differ_otherwise_are_not_taken_for_each_other() -> None:
    parser = Parser()
    templates = Templates(parser, lower_case=True)
    heads = [
        head(b"content-length: 5"),
        head(b"Content-Length: 5"),
        head(b"content-length: 5", b"x: y"),
        head(b"content-length: 5", b"content-length: 6"),
        head(b"content-length: 5", b"content-length: 7"),
        head(b"x: y"),
    ]
    for data in (*heads, *heads):
        templates.read(data, len(data))
    assert parser.parsed == heads


@pytest.mark.parametrize("value", [b"", b" 5", b"+5", b"5 ", b"1_0", b"5, 5", b"-1", b"9" * 16])
def test_a_length_in_another_form_is_left_to_the_parser(value: bytes) -> None:
    parser = Parser()
    data = head(b"Content-Length: " + value)
    assert Templates(parser, lower_case=False).read(data, len(data)) == (1, None)
    assert parser.parsed == [data]


@pytest.mark.parametrize("name", FIELDS)
def test_a_length_in_the_body_is_none_of_the_head(name: bytes) -> None:
    data = head(b"x: y")
    body = b"\r\n" + name + b": 5\r\n"
    assert Templates(Parser(), lower_case=False).read(data + body, len(data)) == (1, None)


def test_what_is_remembered_is_bounded() -> None:
    parser = Parser()
    templates = Templates(parser, lower_case=True)
    for number in range(3000):
        data = head(b"date: %d" % number, b"content-length: 1")
        templates.read(data, len(data))
    assert len(templates._known) <= 1024
    long = head(b"x: " + b"y" * 5000)
    for _ in range(2):
        templates.read(long, len(long))
    assert parser.parsed[-2:] == [long, long]
