"""What etcd says when it does not do as it is asked, as errors that say what to do about it."""

from __future__ import annotations

from proxy.discovery import wire
from proxy.errors import RegistryError

_UNAVAILABLE = 14
_UNAUTHENTICATED = 16
_LOG_IN_AGAIN = ("auth token", "auth store is old", "user name is empty")


class EtcdError(RegistryError):
    """etcd refused; `grpc_code` is its code, -1 where there is none."""

    def __init__(self, message: str, grpc_code: int = -1) -> None:
        super().__init__(message)
        self.grpc_code = grpc_code


class EtcdUnavailable(EtcdError):
    """This endpoint cannot answer now; another may."""

    code = "registry_unavailable"


class Unauthenticated(EtcdError):
    """The token is missing, has run out, or is of before a restart."""


def as_error(failure: wire.Failure, where: str) -> EtcdError:
    """What etcd said, as the error that says what to do about it."""
    code = failure.code if failure.code is not None else failure.grpc_code
    text = f"etcd {where}: {failure.message} (code {code})"
    if code == _UNAUTHENTICATED or any(words in failure.message for words in _LOG_IN_AGAIN):
        return Unauthenticated(text, code or -1)
    if code == _UNAVAILABLE or "leader" in failure.message:
        return EtcdUnavailable(text, code or -1)
    return EtcdError(text, code if code is not None else -1)
