"""A client's request head: parsed by llhttp, reduced to what framing and relaying need."""

from __future__ import annotations

from dataclasses import dataclass

import httptools
import msgspec

from proxy.edge.patience import PATIENCE_HEADERS, read_patience
from proxy.errors import BadRequest, HeadTooLarge
from proxy.upstream.framing import HOP_BY_HOP
from proxy.upstream.patience import Patience

_NOT_PASSED_ON = frozenset(
    [
        *HOP_BY_HOP,
        b"host",
        b"content-length",
        b"expect",
        # A compressed answer could be neither judged nor continued.
        b"accept-encoding",
        # Ours to set: accepted or made, and sent on in any case.
        b"x-request-id",
        *PATIENCE_HEADERS,
    ]
)


@dataclass(frozen=True, slots=True)
class HeadRules:
    """What of a request's head is read, and how much of it there may be."""

    head_bytes: int = 65536
    head_count: int = 128
    model_header: bytes = b"x-pd-model"
    """Names the model where the body does not."""
    request_id_headers: tuple[bytes, ...] = (b"x-request-id",)
    """Looked at in this order."""
    worker_authorization: bytes | None = None
    """Sent to the workers in the place of the client's own Authorization."""
    longest_wait_s: float = 3600.0
    """What the client's own time limits are cut to."""


class RequestHead(msgspec.Struct, frozen=True):
    """What the client's head says."""

    target: bytes
    request_line: bytes
    """As it goes on to the workers, with its line's end."""
    http10: bool
    keep_alive: bool
    content_length: int | None
    """Of the head that was parsed; another of the same kind may have another."""
    chunked: bool
    expects_continue: bool
    passed_on: bytes
    """Header lines that go on to the workers, each with its line's end."""
    request_id: str | None
    model: str | None
    authorization: bytes | None
    patience: Patience | None


class _Collector:
    """What httptools calls for one head."""

    __slots__ = ("headers", "target")

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))


def parse_head(head: bytes, rules: HeadRules) -> RequestHead:
    """Parses a whole request head, its empty line included.

    Raises:
        BadRequest: it is not HTTP/1.x as RFC 9112 says.
        HeadTooLarge: too many headers.
    """
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # an upgrade may always be declined: the request is served as it is
    except httptools.HttpParserError as error:
        raise BadRequest(f"the request's head is malformed: {error}") from None
    headers = collector.headers
    if len(headers) > rules.head_count:
        raise HeadTooLarge(f"the request has {len(headers)} headers; at most {rules.head_count} are taken")
    version = parser.get_http_version()
    if version not in ("1.0", "1.1"):
        raise BadRequest(f"HTTP/{version} is not spoken here; HTTP/1.1 is")
    read = _read_headers(headers, rules)
    if not read.has_host and version == "1.1":
        raise BadRequest("the request has no Host header")
    return RequestHead(
        target=collector.target,
        request_line=b"POST %b HTTP/1.1\r\n" % collector.target,
        http10=version == "1.0",
        keep_alive=parser.should_keep_alive(),
        content_length=read.content_length,
        chunked=read.chunked,
        expects_continue=read.expects_continue,
        passed_on=b"".join(read.passed_on),
        request_id=read.request_id,
        model=read.model,
        authorization=read.authorization,
        patience=read_patience(read.patience, rules.longest_wait_s),
    )


class _Headers:
    """What the headers say, as it is found."""

    __slots__ = (
        "authorization",
        "chunked",
        "content_length",
        "expects_continue",
        "has_host",
        "model",
        "passed_on",
        "patience",
        "request_id",
    )

    def __init__(self) -> None:
        self.authorization: bytes | None = None
        self.chunked = self.expects_continue = self.has_host = False
        self.content_length: int | None = None
        self.model: str | None = None
        self.passed_on: list[bytes] = []
        self.patience: dict[bytes, bytes] = {}
        self.request_id: str | None = None


def _read_headers(headers: list[tuple[bytes, bytes]], rules: HeadRules) -> _Headers:
    read = _Headers()
    named_by_connection: frozenset[bytes] = frozenset()
    request_ids: dict[bytes, bytes] = {}
    for original, value in headers:
        name = original.lower()
        if name in rules.request_id_headers:
            request_ids.setdefault(name, value)
        if name not in _NOT_PASSED_ON:
            if name == rules.model_header:
                read.model = value.decode("latin-1")
            elif name == b"authorization":
                read.authorization = value
                if rules.worker_authorization is not None:
                    continue
            read.passed_on.append(b"%b: %b\r\n" % (original, value))
        elif name == b"content-length":
            read.content_length = int(value)
        elif name == b"transfer-encoding":
            if value.strip().lower() != b"chunked":
                raise BadRequest(
                    f"transfer coding {value.decode('latin-1')!r} is not understood; only chunked is"
                )
            read.chunked = True
        elif name == b"expect":
            read.expects_continue = value.lower() == b"100-continue"
        elif name == b"host":
            read.has_host = True
        elif name in PATIENCE_HEADERS:
            read.patience[name] = value
        elif name == b"connection":
            named = frozenset(option.strip() for option in value.lower().split(b","))
            named_by_connection |= named - {b"keep-alive", b"close", b"upgrade"}
    if named_by_connection:
        read.passed_on = [
            line for line in read.passed_on if line.partition(b":")[0].lower() not in named_by_connection
        ]
    if not any(name.lower() == b"content-type" for name, _ in headers):
        # SGLang refuses a body of no type, and takes no other than JSON.
        read.passed_on.append(b"Content-Type: application/json\r\n")
    if rules.worker_authorization is not None:
        read.passed_on.append(b"Authorization: %b\r\n" % rules.worker_authorization)
    for name in rules.request_id_headers:
        if name in request_ids:
            read.request_id = acceptable_request_id(request_ids[name])
            break
    return read


def acceptable_request_id(value: bytes) -> str | None:
    """The id, if it is short and printable enough to stand in headers and logs; else None."""
    if 0 < len(value) <= 128 and value.isascii() and value.decode().isprintable():
        return value.decode()
    return None
