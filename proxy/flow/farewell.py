"""Failures as clients see them: before the first token an error, after it an event."""

from __future__ import annotations

import msgspec

from proxy.errors import (
    Aborted,
    BadRequest,
    Draining,
    NoPair,
    Overloaded,
    PdError,
    UpstreamFailure,
    UpstreamTimeout,
)
from proxy.faults import error_type
from proxy.upstream.outcome import Failure, Outcome

DONE = b"data: [DONE]\n\n"
NO_STREAM = Failure(Outcome.ENGINE_ERROR, "the worker answered a streamed request with no stream")
"""Where a stream's head was sent before its first token, and no stream came."""
_TIMEOUTS = frozenset([Outcome.FIRST_TOKEN_TIMEOUT, Outcome.STALL, Outcome.DEADLINE])


def as_error(failure: Failure, attempts: int) -> PdError:
    """The error for a client that has seen nothing yet."""
    told = f"{failure.message} ({failure.outcome.value} of {failure.role or 'a worker'}, {attempts} attempts)"
    if failure.outcome is Outcome.ABORTED:
        return Aborted(failure.message)
    kind = UpstreamTimeout if failure.outcome in _TIMEOUTS else UpstreamFailure
    if failure.outcome is Outcome.REJECTED:
        kind = Overloaded  # type: ignore[assignment]
    error = kind(told, retry_after_s=failure.retry_after_s)
    error.status = failure.status
    return error


def as_failure(error: PdError) -> Failure:
    """An error of our own as a failure, for a client that has seen a part of its answer."""
    return Failure(outcome_of(error), error.message, error.status)


def outcome_of(error: PdError) -> Outcome:
    """How a request ends that an error of our own has ended."""
    if isinstance(error, BadRequest):
        return Outcome.BAD_REQUEST
    if isinstance(error, NoPair):
        return Outcome.NO_PAIR
    if isinstance(error, Overloaded):
        return Outcome.OVERLOADED
    return Outcome.DRAINING if isinstance(error, Draining) else Outcome.INTERNAL


def as_events(failure: Failure) -> bytes:
    """The events that end a stream which cannot go on.

    SGLang's own form on all its routes, and the one that OpenAI's clients raise an error on.
    """
    error = {
        "message": f"the stream broke off: {failure.message}",
        "type": error_type(failure.status),
        "param": None,
        "code": failure.outcome.value,
    }
    return b'data: {"error":%b}\n\n' % msgspec.json.encode(error) + DONE
