"""Errors as HTTP: the only place where an error becomes a status and a body."""

from __future__ import annotations

import msgspec

from proxy.errors import PdError

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_encode = msgspec.json.Encoder().encode


def error_type(status: int) -> str:
    """OpenAI's `type` for a status."""
    return _TYPES.get(status) or ("invalid_request_error" if status < 500 else "server_error")


def body(error: PdError) -> bytes:
    """The OpenAI-shaped JSON body that tells a client of `error`."""
    return _encode(
        {
            "error": {
                "message": error.message,
                "type": error_type(error.status),
                "param": error.param,
                "code": error.code,
            }
        }
    )


def headers(error: PdError) -> list[tuple[str, str]]:
    """Headers that go with `body(error)`, beside content type and length."""
    if error.retry_after_s is None:
        return []
    return [("Retry-After", str(error.retry_after_s))]
