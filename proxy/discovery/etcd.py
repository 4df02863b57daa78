"""A small client of etcd's JSON gateway: several endpoints, TLS, log-in, a deadline on every call.

Why not etcd3-py: docs/adr/0003-etcd-json-gateway-instead-of-etcd3-py.md.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import msgspec

from proxy.discovery import wire
from proxy.discovery.refusals import EtcdError, EtcdUnavailable, Unauthenticated, as_error

T = TypeVar("T")

_NO_AUTH_HERE = "authentication is not enabled"


@dataclass(frozen=True, slots=True)
class EtcdRules:
    """Where etcd is and how long to wait for it.

    Raises:
        ValueError: no endpoint, an endpoint that is no http(s) URL, or half a pair of settings.
    """

    endpoints: tuple[str, ...] = ("http://127.0.0.1:2379",)
    user: str | None = None
    """By name and password: the gateway cannot use a client certificate's common name."""
    password: str | None = field(default=None, repr=False)
    cafile: str | None = None
    """PEM; the system's authorities when None. Host names are always checked."""
    certfile: str | None = None
    keyfile: str | None = None
    call_s: float = 3.0
    """For one call to one endpoint, connecting included."""
    connect_s: float = 1.5

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise ValueError("etcd endpoints: at least one is needed")
        for endpoint in self.endpoints:
            if not endpoint.startswith(("http://", "https://")):
                raise ValueError(f"etcd endpoint {endpoint!r} is not of the form http(s)://host:port")
        if (self.user is None) != (self.password is None):
            raise ValueError("etcd user and password: one is set without the other")
        if self.keyfile is not None and self.certfile is None:
            raise ValueError("etcd keyfile is set without a certfile")


class Etcd:
    """Calls etcd. Made inside a running loop; close it, or use it as an async context.

    Owns the choice of the endpoint: `serving` is the one that answers now, and stays it until it fails.
    Decides on the `code` in an answer's body, never on the HTTP status, which differs between versions.
    """

    def __init__(self, rules: EtcdRules) -> None:
        self._rules = rules
        self._endpoints = tuple(endpoint.rstrip("/") for endpoint in rules.endpoints)
        self._at = 0
        self._token: str | None = None
        self._call_timeout = aiohttp.ClientTimeout(total=rules.call_s, sock_connect=rules.connect_s)
        self._watch_timeout = aiohttp.ClientTimeout(total=None, sock_connect=rules.connect_s)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=_tls(rules), limit=64))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; leases and keys stay."""
        await self._session.close()

    @property
    def serving(self) -> str:
        """The endpoint that calls go to first."""
        return self._endpoints[self._at]

    @property
    def rules(self) -> EtcdRules:
        """The rules it was made with."""
        return self._rules

    def leave(self, endpoint: str) -> None:
        """Prefer the next endpoint, unless another than `endpoint` is preferred already."""
        if endpoint == self.serving:
            self._at = (self._at + 1) % len(self._endpoints)

    async def range(
        self,
        key: bytes,
        range_end: bytes = b"",
        *,
        limit: int = 0,
        revision: int = 0,
        count_only: bool = False,
        endpoint: str | None = None,
    ) -> wire.RangeAnswer:
        """Keys in order, as of `revision` (0: now, linearizable).

        Args:
            key: the first key.
            range_end: the key after the last; empty for one key only.
            limit: at most so many keys; 0 for all.
            revision: 0, or one that is not compacted.
            count_only: tell how many, not which.
            endpoint: ask this one only, for what it says of itself; else the first that answers.

        Raises:
            RegistryError: no endpoint answered in time, or etcd refused.
        """
        message = {
            "key": key,
            "range_end": range_end,
            "limit": limit,
            "revision": revision,
            "count_only": count_only,
        }
        return await self._call("/v3/kv/range", message, wire.RangeAnswer, endpoint)

    async def pages(self, prefix: bytes, *, limit: int = 1000) -> AsyncGenerator[wire.RangeAnswer, None]:
        """All keys with a prefix, in pages that are all of ONE revision, whoever writes meanwhile.

        Raises:
            RegistryError: as `range`; also when that revision is compacted between two pages.
        """
        key, end, revision = prefix, wire.prefix_end(prefix), 0
        while True:
            page = await self.range(key, end, limit=limit, revision=revision)
            revision = revision or page.header.revision
            page.header.revision = revision
            yield page
            if not page.more or not page.kvs:
                return
            key = page.kvs[-1].key + b"\0"

    async def txn(
        self,
        compare: Sequence[dict[str, Any]],
        success: Sequence[dict[str, Any]],
        failure: Sequence[dict[str, Any]] = (),
    ) -> wire.TxnAnswer:
        """A transaction. May be sent twice when an answer is lost: `compare` must make that harmless.

        Raises:
            RegistryError: as `range`; it may have been done nevertheless.
        """
        message = {"compare": compare, "success": success, "failure": failure}
        return await self._call("/v3/kv/txn", message, wire.TxnAnswer)

    async def grant(self, ttl_s: int) -> int:
        """A new lease's id.

        Raises:
            RegistryError: as `range`.
        """
        return (await self._call("/v3/lease/grant", {"TTL": ttl_s}, wire.LeaseAnswer)).ID

    async def keepalive(self, lease: int) -> int:
        """Renew a lease; the seconds it has from now on, 0 when it is gone.

        Raises:
            RegistryError: as `range`.
        """
        answer = await self._call("/v3/lease/keepalive", {"ID": lease}, wire.Envelope[wire.LeaseAnswer])
        return answer.result.TTL if answer.result else 0

    async def revoke(self, lease: int) -> None:
        """End a lease and delete its keys.

        Raises:
            RegistryError: as `range`; also when the lease is gone (code 5).
        """
        await self._call("/v3/lease/revoke", {"ID": lease}, wire.Nothing)

    async def open_watch(self, message: dict[str, Any], endpoint: str) -> aiohttp.ClientResponse:
        """Send a watch's request to one endpoint; the answer's body is the stream. See `watch`.

        Raises:
            RegistryError: it could not be opened.
        """
        token = await self._log_in() if self._rules.user else None
        # Without this header a member that has lost its leader keeps the stream open and silent for ever.
        headers = {"Grpc-Metadata-hasleader": "true"} | ({"Authorization": token} if token else {})
        try:
            return await self._session.post(
                endpoint + "/v3/watch",
                data=wire.encode({"create_request": message}),
                headers=headers,
                timeout=self._watch_timeout,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise EtcdUnavailable(f"etcd {endpoint}: the watch did not open: {_say(error)}") from error

    def forget_token(self) -> None:
        """Log in anew before the next call: a watch is told of a stale token in other words than a call."""
        self._token = None

    async def _call(
        self, path: str, message: dict[str, Any], shape: type[T], endpoint: str | None = None
    ) -> T:
        """Ask the serving endpoint, then each other one once; log in again once."""
        body = wire.encode(message)
        for _ in range(1 if endpoint else len(self._endpoints)):
            where = endpoint or self.serving
            try:
                return await self._as_user(where, path, body, shape)
            except EtcdUnavailable as error:
                failure = error
                if endpoint is None:
                    self.leave(where)
        raise failure

    async def _as_user(self, where: str, path: str, body: bytes, shape: type[T]) -> T:
        if self._rules.user is None:
            return await self._post(where, path, body, shape, None)
        token = await self._log_in(where)
        try:
            return await self._post(where, path, body, shape, token)
        except Unauthenticated:
            if self._token == token:  # else another call has logged in meanwhile
                self._token = None
            return await self._post(where, path, body, shape, await self._log_in(where))

    async def _log_in(self, where: str | None = None) -> str:
        if self._token is None:
            body = wire.encode({"name": self._rules.user, "password": self._rules.password})
            try:
                answer = await self._post(
                    where or self.serving, "/v3/auth/authenticate", body, wire.TokenAnswer, None
                )
                self._token = answer.token
            except EtcdError as error:
                if _NO_AUTH_HERE not in error.message:
                    raise
                return ""  # authentication is not switched on (yet): nobody asks for a token
        return self._token

    async def _post(self, where: str, path: str, body: bytes, shape: type[T], token: str | None) -> T:
        try:
            async with self._session.post(
                where + path,
                data=body,
                headers={"Authorization": token} if token else None,
                timeout=self._call_timeout,
            ) as response:
                data = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise EtcdUnavailable(f"etcd {where}{path}: {_say(error)}") from error
        try:
            failure = wire.failure_in(data)
            if failure is None:
                return wire.decode(data, shape)
        except msgspec.MsgspecError as error:
            raise EtcdUnavailable(
                f"etcd {where}{path}: HTTP {response.status}, not an answer of etcd's JSON gateway"
            ) from error
        raise as_error(failure, where + path)


def _tls(rules: EtcdRules) -> ssl.SSLContext | bool:
    if not any(endpoint.startswith("https://") for endpoint in rules.endpoints):
        return True
    context = ssl.create_default_context(cafile=rules.cafile)
    if rules.certfile is not None:
        context.load_cert_chain(rules.certfile, rules.keyfile)
    return context


def _say(error: BaseException) -> str:
    return str(error) or type(error).__name__
