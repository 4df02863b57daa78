"""Questions whose answer any one worker can give."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.control.deps import ControlDeps
from proxy.errors import NoPair, PdError, UpstreamFailure
from proxy.roster import Role, Worker
from proxy.upstream.inquiries import Answer

_TRIES = 3  # why: each may take the whole deadline; a client waits no longer than three of them


def fit_first(deps: ControlDeps, role: Role, model: str | None = None) -> list[Worker]:
    """Workers of a role (and a model), those that take requests first."""
    members = [
        member
        for member in deps.pool.members()
        if member.worker.role is role and (model is None or member.worker.model in (model, None))
    ]
    members.sort(key=lambda member: member.standing_by is not None)
    return [member.worker for member in members]


async def first_answer(deps: ControlDeps, workers: Sequence[Worker], paths: Sequence[str]) -> Answer:
    """The first 2xx to a GET of the first of `paths` that a worker has.

    Raises:
        NoPair: there is nobody to ask.
        UpstreamFailure: nobody who was asked had an answer.
    """
    if not workers:
        raise NoPair("no decode worker is known that could be asked", retry_after_s=2)
    problem = ""
    for worker in workers[:_TRIES]:
        try:
            return await ask_either(deps, worker, paths)
        except PdError as error:
            problem = error.message
    raise UpstreamFailure(problem)


async def ask_either(deps: ControlDeps, worker: Worker, paths: Sequence[str]) -> Answer:
    """A worker's 2xx to a GET of the first of `paths` that it has: routes have other names by generation.

    Raises:
        UpstreamFailure: it has none of them, failed, or did not answer in time.
    """
    problem = f"{worker.url} has no {' or '.join(paths)}"
    for path in paths:
        answer = await deps.inquiries.ask(worker, "GET", path, deps.inquiry_s)
        if answer.ok:
            return answer
        problem = f"GET {worker.url}{path} answered {answer.status}"
    raise UpstreamFailure(problem)
