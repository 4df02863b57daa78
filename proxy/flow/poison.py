"""A request that kills whoever takes it must not go through the whole fleet.

There are such requests: a token id beyond the vocabulary ends SGLang's scheduler, and with it the server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from proxy.roster import Role, Worker
from proxy.routing.placement import Placement
from proxy.upstream.outcome import Failure, Outcome

# How a connection ends under a process that dies. A refused one is no sign: its request never arrived.
_CUT_SHORT = frozenset(
    [Outcome.RESET, Outcome.STALE_CONNECTION, Outcome.TRUNCATED, Outcome.TRUNCATED_MIDSTREAM]
)


async def has_killed(
    failure: Failure, placement: Placement, is_there: Callable[[Worker], Awaitable[bool]]
) -> bool:
    """Whether an attempt has ended with the death of the worker that failed.

    Args:
        failure: how it ended.
        placement: on whom.
        is_there: whether a worker still takes connections.
    """
    if failure.outcome not in _CUT_SHORT:
        return False
    member = placement.prefill if failure.role is Role.PREFILL else placement.decode
    return not await is_there(member.worker)


def poisonous(failure: Failure, deaths: int) -> Failure:
    """What the client of such a request is told."""
    message = f"{deaths} workers died with this request in hand, so it is not tried again; {failure.message}"
    return replace(failure, outcome=Outcome.ENGINE_ERROR, message=message, status=502)
