"""The job's notice board in etcd: what each node says of itself, and the word that ends the job for all."""

from __future__ import annotations

import hashlib
from typing import Any

import aiohttp
import msgspec

from deploy.slurm.job.services import ETCD_USER, REGISTRY_ROOT
from proxy.discovery import wire
from proxy.discovery.etcd import Etcd, EtcdRules
from proxy.errors import RegistryError

_AUTH_S = 10.0


class Status(msgspec.Struct, frozen=True):
    """What a node says of itself."""

    state: str
    """`up`, `failed`."""
    reason: str = ""


class End(msgspec.Struct, frozen=True):
    """The job is over."""

    code: int
    reason: str


class Board:
    """One node's view of it. Every call has the client's deadline of a few seconds."""

    def __init__(self, etcd: Etcd, job: str, rank: int) -> None:
        self._etcd = etcd
        self._top = f"/{REGISTRY_ROOT}/job/{job}/"
        self._own = f"{self._top}nodes/{rank}".encode()

    async def tell(self, status: Status) -> None:
        """Says what this node is.

        Raises:
            RegistryError: etcd did not take it.
        """
        await self._put(self._own, msgspec.json.encode(status))

    async def leave(self) -> None:
        """Takes this node's word away: all that ran here has ended.

        Raises:
            RegistryError: etcd did not take it.
        """
        await self._etcd.txn([], [{"request_delete_range": {"key": self._own}}])

    async def nodes(self) -> dict[int, Status]:
        """What all nodes said, by rank.

        Raises:
            RegistryError: etcd did not answer.
        """
        prefix = f"{self._top}nodes/".encode()
        answer = await self._etcd.range(prefix, wire.prefix_end(prefix))
        return {
            int(pair.key[len(prefix) :]): msgspec.json.decode(pair.value, type=Status) for pair in answer.kvs
        }

    async def end(self, end: End) -> None:
        """Ends the job on all nodes.

        Raises:
            RegistryError: etcd did not take it.
        """
        await self._put(f"{self._top}end".encode(), msgspec.json.encode(end))

    async def ended(self) -> End | None:
        """Whether the job is over.

        Raises:
            RegistryError: etcd did not answer.
        """
        pairs = (await self._etcd.range(f"{self._top}end".encode())).kvs
        return msgspec.json.decode(pairs[0].value, type=End) if pairs else None

    async def _put(self, key: bytes, value: bytes) -> None:
        await self._etcd.txn([], [{"request_put": {"key": key, "value": value}}])


def rules(registry: tuple[str, ...], secret: str) -> EtcdRules:
    """How this job's parts come into its registry."""
    return EtcdRules(endpoints=registry, user=ETCD_USER, password=secret)


async def lock(endpoint: str, secret: str) -> None:
    """Lets nobody into a fresh etcd without the job's password. Where that is so already, nothing changes.

    Raises:
        RegistryError: it does not answer yet, or refuses.
    """
    prefix = f"/{REGISTRY_ROOT}/".encode()
    permission = {"permType": "READWRITE", "key": prefix, "range_end": wire.prefix_end(prefix)}
    root = hashlib.sha256(f"root {secret}".encode()).hexdigest()
    timeout = aiohttp.ClientTimeout(total=_AUTH_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:

        async def call(path: str, **message: Any) -> str:
            url = f"{endpoint}/v3/auth/{path}"
            try:
                async with session.post(url, data=wire.encode(message)) as response:
                    failure = wire.failure_in(await response.read())
            except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError) as error:
                raise RegistryError(f"etcd {url}: {error or type(error).__name__}") from error
            return failure.message if failure else ""

        if not await call("authenticate", name=ETCD_USER, password=secret):
            return
        for path, message in (
            ("role/add", {"name": ETCD_USER}),
            ("role/grant", {"name": ETCD_USER, "perm": permission}),
            ("user/add", {"name": "root", "password": root}),
            ("user/grant", {"user": "root", "role": "root"}),
            ("user/add", {"name": ETCD_USER, "password": secret}),
            ("user/grant", {"user": ETCD_USER, "role": ETCD_USER}),
            ("enable", {}),
        ):
            said = await call(path, **message)
            if said and "already exists" not in said:
                raise RegistryError(f"etcd {endpoint}: cannot set up its users: {said}")
