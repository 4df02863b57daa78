"""What a failure says to the breakers."""

from __future__ import annotations

import pytest

from proxy.roster import Role
from proxy.routing.breaker import Settlement
from proxy.upstream.classify import judge_error
from proxy.upstream.outcome import Failure, Outcome

_TRANSFER = "Decode transfer failed for request rank=0 with exception KVTransferError(bootstrap_room=7): "


@pytest.mark.parametrize(
    "reason",
    [
        "Decode instance could be dead, remote mooncake session 10.0.0.2:5 is not alive",
        "Failed to get kvcache from prefill instance, it might be dead",
        "Losing connection with prefill instance (bootstrap_addr: 10.0.0.1:8998)",
        "Lost connection with prefill instance (bootstrap_addr: 10.0.0.1:8998)",
    ],
)
@pytest.mark.parametrize("role", [Role.PREFILL, Role.DECODE])
def test_a_dead_session_severs_its_edge_whoever_tells_it(reason: str, role: Role) -> None:
    failure = judge_error(500, f'{{"message": "{_TRANSFER}{reason}"}}'.encode(), role)
    assert (failure.settlement, failure.blamed) == (Settlement.SEVERED, None)


@pytest.mark.parametrize(
    "reason", ["Failed due to an unknown reason from another rank", "timed out after 30 s"]
)
def test_any_other_failed_transfer_is_one_failure_of_the_edge(reason: str) -> None:
    failure = judge_error(500, f"{_TRANSFER}{reason}".encode(), Role.DECODE)
    assert (failure.settlement, failure.blamed) == (Settlement.FAILURE, None)


@pytest.mark.parametrize(
    "outcome", [Outcome.BAD_REQUEST, Outcome.CLIENT_GONE, Outcome.REJECTED, Outcome.STALE_CONNECTION]
)
def test_what_is_nobodys_fault_never_counts(outcome: Outcome) -> None:
    assert Failure(outcome, "", role=Role.DECODE).settlement is Settlement.IGNORED
