"""A worker as operators describe it in a request's body, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Annotated

import msgspec

from proxy.errors import BadRequest
from proxy.roster import Origin, Role, State, Worker

_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_Count = Annotated[int, msgspec.Meta(ge=1)]


class WorkerOrder(msgspec.Struct, frozen=True, omit_defaults=True):
    """What may be said of a worker; everything but the url may be left out."""

    url: str | None = None
    worker_type: Role | None = None
    worker_id: str | None = None
    model_id: str | None = None
    bootstrap_host: str | None = None
    bootstrap_port: _Port | None = None
    max_running_requests: _Count | None = None
    weight: Annotated[float, msgspec.Meta(gt=0)] | None = None
    state: State | None = None
    labels: dict[str, str] | None = None
    instance: str | None = None


_TO_WORKER = {"worker_type": "role", "model_id": "model"}
_WITHOUT_EFFECT = {"priority": 50, "cost": 1.0, "runtime": "sglang", "dp_aware": False}
"""sglang-router's fields that we have no use for, with its defaults: those may be sent."""


def read_order(body: Mapping[str, object]) -> WorkerOrder:
    """Checks what an operator sent.

    Raises:
        BadRequest: a field is unknown here, asks for what we do not do, or has a wrong value.
    """
    known = {name: value for name, value in body.items() if name in WorkerOrder.__struct_fields__}
    for name, value in body.items():
        if name in known or (name in _WITHOUT_EFFECT and value == _WITHOUT_EFFECT[name]):
            continue
        if name == "api_key":
            raise BadRequest("api_key: all workers share one key, the setting upstream.api_key", param=name)
        raise BadRequest(
            f"{name} is not supported; supported are {', '.join(WorkerOrder.__struct_fields__)}", param=name
        )
    try:
        return msgspec.convert(known, WorkerOrder)
    except msgspec.ValidationError as error:
        raise BadRequest(f"a wrong description of a worker: {error}") from error


def new_worker(order: WorkerOrder) -> Worker:
    """The worker that `order` describes.

    Raises:
        BadRequest: url or worker_type is missing or wrong.
    """
    if not order.url:
        raise BadRequest("url is missing: http://host:port", param="url")
    if order.worker_type not in (Role.PREFILL, Role.DECODE):
        raise BadRequest("worker_type must be prefill or decode", param="worker_type")
    try:
        bare = Worker(worker_id="", url=order.url.rstrip("/"), role=order.worker_type, origin=Origin.API)
    except ValueError as error:
        raise BadRequest(str(error), param="url") from error
    return changed(replace(bare, worker_id=f"{bare.role.value}-{bare.host}-{bare.port}"), order)


def changed(worker: Worker, order: WorkerOrder) -> Worker:
    """`worker` with everything that `order` names.

    Raises:
        BadRequest: the two do not go together.
    """
    known = {field.name for field in fields(Worker)}
    said = {
        _TO_WORKER.get(name, name): getattr(order, name)
        for name in WorkerOrder.__struct_fields__
        if getattr(order, name) is not None
    }
    if "url" in said:
        said["url"] = said["url"].rstrip("/")
    try:
        return replace(worker, **{name: value for name, value in said.items() if name in known})
    except ValueError as error:
        raise BadRequest(str(error)) from error
