"""The one error tree. What each error means to a client stands in `faults`."""

from __future__ import annotations

from enum import StrEnum


class Blame(StrEnum):
    """Whose doing an error is: decides what is retried and who is benched."""

    CLIENT = "client"
    WORKER = "worker"
    FLEET = "fleet"
    PROXY = "proxy"


class PdError(Exception):
    """Root of every error that this product raises on purpose.

    Attributes:
        status: HTTP status, should the error reach a client.
        code: stable slug, listed in docs/errors.md.
        blame: whose doing it is.
        param: the request's field at fault, if one is.
        retry_after_s: when the client may try again, if that is known.
    """

    status = 500
    code = "internal_error"
    blame = Blame.PROXY

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class BadRequest(PdError):
    """The client's request cannot be served as it is; touches no worker."""

    status = 400
    code = "invalid_request"
    blame = Blame.CLIENT


class HeadTooLarge(BadRequest):
    """Too many or too large request headers."""

    status = 431
    code = "headers_too_large"


class BodyTooLarge(BadRequest):
    """The request's body is over the limit."""

    status = 413
    code = "body_too_large"


class SlowClient(BadRequest):
    """The request did not arrive within its time."""

    status = 408
    code = "request_timeout"


class Unauthorized(BadRequest):
    """A key is missing or wrong."""

    status = 401
    code = "unauthorized"


class UnknownModel(BadRequest):
    """No pool serves the model, or several do and the request names none."""

    status = 404
    code = "model_not_found"


class Overloaded(PdError):
    """A bound of ours is reached: queue, connections, or bytes held."""

    status = 503
    code = "overloaded"
    blame = Blame.FLEET


class NoPair(PdError):
    """No prefill, no decode, or no two that may work together."""

    status = 503
    code = "no_pair_available"
    blame = Blame.FLEET


class Draining(PdError):
    """This proxy is about to end and takes no new requests."""

    status = 503
    code = "draining"


class Aborted(PdError):
    """The client itself has ended the request, by /abort_request."""

    status = 499
    code = "aborted"
    blame = Blame.CLIENT


class UpstreamFailure(PdError):
    """A worker failed the request in a way that could not be hidden."""

    status = 502
    code = "upstream_failure"
    blame = Blame.WORKER


class UpstreamTimeout(UpstreamFailure):
    """A worker did not answer within its time."""

    status = 504
    code = "upstream_timeout"


class RegistryError(PdError):
    """etcd did not answer, or refused."""

    status = 503
    code = "registry_error"


class SettingsError(PdError):
    """A setting is wrong; the message names it."""

    code = "bad_setting"
