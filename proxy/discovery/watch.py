"""One watch stream: opened, read, and told apart from its many ways to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import aiohttp
import msgspec

from proxy.discovery import wire
from proxy.discovery.etcd import Etcd
from proxy.discovery.refusals import EtcdError, EtcdUnavailable, as_error
from proxy.errors import RegistryError


class Compacted(RegistryError):
    """History from where the watch wanted to go on is gone: list again."""


async def watch(
    etcd: Etcd, prefix: bytes, start_revision: int, endpoint: str
) -> AsyncGenerator[wire.WatchAnswer, None]:
    """What happens to the keys with a prefix from `start_revision` on, as one endpoint tells it.

    The first answer is `created`, within `call_s`. Later ones may be hours apart: whether the endpoint
    lives is for the reader to ask beside it. Close it with `contextlib.aclosing`.

    Raises:
        Compacted: `start_revision` is compacted (etcd leaves the stream open and says no more).
        EtcdError: cancelled, ended, refused. It never ends in another way.
    """
    message = {
        "key": prefix,
        "range_end": wire.prefix_end(prefix),
        "start_revision": start_revision,
        "progress_notify": True,
    }
    try:
        async with asyncio.timeout(etcd.rules.call_s):
            response = await etcd.open_watch(message, endpoint)
    except TimeoutError as error:
        raise EtcdUnavailable(f"etcd {endpoint}: no watch within {etcd.rules.call_s} s") from error
    try:
        async with aclosing(_lines(response, endpoint, etcd.rules.call_s)) as lines:
            async for line in lines:
                answer = _read(line, endpoint)
                if answer.compact_revision:
                    raise Compacted(f"etcd {endpoint}: compacted at {answer.compact_revision}")
                if answer.canceled:
                    etcd.forget_token()
                    raise EtcdError(
                        f"etcd {endpoint} cancelled the watch: {answer.cancel_reason or 'no reason'}"
                    )
                yield answer
    finally:
        response.close()


async def _lines(
    response: aiohttp.ClientResponse, endpoint: str, first_s: float
) -> AsyncGenerator[bytes, None]:
    lines = wire.Lines()
    limit_s: float | None = first_s
    try:
        while True:
            async with asyncio.timeout(limit_s):
                data = await response.content.readany()
            if not data:
                raise EtcdUnavailable(f"etcd {endpoint} ended the watch")
            for line in lines.feed(data):
                limit_s = None
                yield line
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise EtcdUnavailable(f"etcd {endpoint}: the watch broke: {error!r}") from error


def _read(line: bytes, endpoint: str) -> wire.WatchAnswer:
    try:
        envelope = wire.decode(line, wire.Envelope[wire.WatchAnswer])
    except msgspec.MsgspecError as error:
        raise EtcdUnavailable(f"etcd {endpoint}: not a watch answer: {line[:200]!r}") from error
    if envelope.error is not None:
        raise as_error(envelope.error, endpoint + "/v3/watch")
    return envelope.result or wire.WatchAnswer()
