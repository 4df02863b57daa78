"""Workers named in the settings, for set-ups without etcd."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from proxy.errors import SettingsError
from proxy.roster import Origin, Role, Worker


def static_workers(
    prefills: Iterable[tuple[str, int | None]],
    decodes: Iterable[str],
    *,
    model: str | None = None,
) -> list[Worker]:
    """Workers from `--prefill URL [BOOTSTRAP_PORT]` and `--decode URL`, in this order.

    Raises:
        SettingsError: a URL or a port is wrong, or two name the same worker; says which.
    """
    workers = [worker(Role.PREFILL, url, bootstrap_port=port, model=model) for url, port in prefills]
    workers += [worker(Role.DECODE, url, model=model) for url in decodes]
    seen: set[str] = set()
    for one in workers:
        if one.worker_id in seen:
            raise SettingsError(f"--{one.role} {one.url} is given twice")
        seen.add(one.worker_id)
    return workers


def worker(
    role: Role,
    url: str,
    *,
    bootstrap_port: int | None = None,
    model: str | None = None,
    origin: Origin = Origin.STATIC,
) -> Worker:
    """One worker of which no more than its address is known.

    Raises:
        SettingsError: the URL or the port is wrong.
    """
    try:
        parts = urlsplit(url)
        return Worker(
            worker_id=f"{role}-{parts.hostname}-{parts.port}",
            url=url.rstrip("/"),
            role=role,
            model=model,
            bootstrap_port=bootstrap_port,
            origin=origin,
        )
    except ValueError as error:
        raise SettingsError(f"--{role} {url}: {error}") from error
