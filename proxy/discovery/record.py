"""The registry's contract: the keys of workers and wishes, and a worker's value as JSON.

    /<root>/v1/workers/<model>/<role>/<worker_id>   a worker, under its own lease
    /<root>/v1/wishes/<worker_id>                   an operator's wish to drain it, without a lease

Each part is percent-encoded, so that a model's `/` does not make a level. A model that is not known
is written `_` (and a model really called `_` is `%5F`). The value of a wish is for people: that the
key is there is the wish.
"""

from __future__ import annotations

from functools import lru_cache
from operator import attrgetter
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import quote, unquote

import msgspec

from proxy.errors import RegistryError
from proxy.roster import Origin, Role, State, Worker

SCHEMA = 1
"""Fields are only ever added under `v1`; the number tells people what a writer knew."""

_UNKNOWN_MODEL = "_"
_ROLES = {str(role): role for role in Role}
_FIELDS = (
    "bootstrap_host",
    "bootstrap_port",
    "engine",
    "engine_version",
    "tp_size",
    "dp_size",
    "transfer_backend",
    "max_running_requests",
    "max_total_tokens",
    "weights_fingerprint",
    "node",
    "control_url",
    "instance",
    "started_at",
    "weight",
)
"""Fields that stand in the value as they stand in the worker."""
_those_fields = attrgetter(*_FIELDS)


class BadRecord(RegistryError):
    """A key or a value is not of the contract; the message says where and why."""

    code = "registry_bad_record"


class Record(NamedTuple):
    """A worker, and the value that it was read from."""

    worker: Worker
    value: bytes = b""
    """Holds also the fields that a later version wrote and we do not know; empty when it is lost."""


class _Value(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=False):
    """The JSON value of a worker's key. Fields that are not listed here are ignored, and see `write`."""

    url: str
    schema: int = 0  # 0, so that ours is always written: `omit_defaults` leaves defaults out
    role: Role | None = None
    model: str | None = None
    bootstrap_host: str | None = None
    bootstrap_port: int | None = None
    engine: str | None = None
    engine_version: str | None = None
    tp_size: int | None = None
    dp_size: int | None = None
    transfer_backend: str | None = None
    max_running_requests: int | None = None
    max_total_tokens: int | None = None
    weights_fingerprint: str | None = None
    node: str | None = None
    control_url: str | None = None
    instance: str | None = None
    state: State | None = None
    started_at: float | None = None
    weight: float = 1.0
    labels: dict[str, str] = {}


_KNOWN = frozenset(_Value.__struct_fields__)
_decode = msgspec.json.Decoder(_Value).decode
_decode_any = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Keys:
    """The keys under one root, made and read."""

    def __init__(self, root: str = "pd") -> None:
        top = "/" + root.strip("/")
        self.prefix = f"{top}/v1/"
        """Both sorts of keys stand under it: one list and one watch see them at one revision."""
        self.workers = f"{self.prefix}workers/"
        self.wishes = f"{self.prefix}wishes/"

    def worker(self, worker: Worker) -> str:
        """The key of a worker."""
        model = _UNKNOWN_MODEL if worker.model is None else _quote(worker.model)
        return f"{self.workers}{model}/{worker.role}/{_quote(worker.worker_id)}"

    def wish(self, worker_id: str) -> str:
        """The key of the wish to drain a worker."""
        return f"{self.wishes}{_quote(worker_id)}"

    def wished(self, key: str) -> str | None:
        """The id of the worker that a wish's key is about; None if it is no wish's key."""
        return unquote(key[len(self.wishes) :]) if key.startswith(self.wishes) else None

    def parts(self, key: str) -> tuple[str | None, Role, str]:
        """Model, role and worker id of a worker's key.

        Raises:
            BadRecord: the key has another form or an unknown role.
        """
        segments = key[len(self.workers) :].split("/")
        if not key.startswith(self.workers) or len(segments) != 3 or not all(segments):
            raise BadRecord(f"key {key!r} is not of the form {self.workers}<model>/<role>/<worker_id>")
        model, role, worker_id = segments
        known = _ROLES.get(role)
        if known is None:
            raise BadRecord(f"key {key!r}: {role!r} is no role; known are {', '.join(_ROLES)}")
        return _model(model), known, unquote(worker_id)

    def read(self, key: str, value: bytes, origin: Origin = Origin.REGISTRY) -> Worker:
        """The worker that a key and its value stand for.

        Raises:
            BadRecord: the key or the value is not of the contract, or they contradict each other.
        """
        model, role, worker_id = self.parts(key)
        try:
            found = _decode(value)
            _check_agreement(found, model, role)
            return Worker(
                worker_id=worker_id,
                url=found.url.rstrip("/"),
                role=role,
                model=model,
                state=found.state or State.READY,
                labels=MappingProxyType(found.labels),
                origin=origin,
                **dict(zip(_FIELDS, _those_fields(found), strict=True)),
            )
        except (msgspec.MsgspecError, ValueError) as error:
            raise BadRecord(f"value of {key!r}: {error}") from error


def write(worker: Worker, over: bytes = b"") -> bytes:
    """The JSON value that tells of `worker`; what is None is left out.

    Args:
        worker: what to tell.
        over: the value that the worker was read from, if any: fields of it that we do not know are kept.
    """
    value = _encode(
        _Value(
            url=worker.url,
            schema=SCHEMA,
            role=worker.role,
            model=worker.model,
            state=worker.state,
            labels=dict(worker.labels),
            **dict(zip(_FIELDS, _those_fields(worker), strict=True)),
        )
    )
    unknown = {name: raw for name, raw in _decode_any(over or b"{}").items() if name not in _KNOWN}
    return value[:-1] + b"," + _encode(unknown)[1:] if unknown else value


def instance_of(value: bytes) -> str | None:
    """The process that wrote a value; None if it does not say, or is not of the contract."""
    try:
        return _decode(value).instance
    except msgspec.MsgspecError:
        return None


def _check_agreement(value: _Value, model: str | None, role: Role) -> None:
    if value.role is not None and value.role is not role:
        raise ValueError(f"the value says role {value.role}, the key {role}")
    if value.model is not None and value.model != model:
        raise ValueError(f"the value says model {value.model!r}, the key {model!r}")


@lru_cache(maxsize=256)
def _model(part: str) -> str | None:
    """A model's name as the fleet's keys write it; there are few, in thousands of keys."""
    return None if part == _UNKNOWN_MODEL else unquote(part)


def _quote(part: str) -> str:
    return "%5F" if part == _UNKNOWN_MODEL else quote(part, safe="")
