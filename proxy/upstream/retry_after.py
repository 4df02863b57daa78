"""When a worker wants to be asked again: the Retry-After of its refusal, where it sent one."""

from __future__ import annotations

import re
from dataclasses import replace

from proxy.upstream.framing import ResponseHead
from proxy.upstream.outcome import Failure

# Seconds only: the date form would need both clocks to agree, and no engine sends it.
_HEADER = re.compile(rb"^retry-after:[ \t]*(\d{1,9})[ \t]*\r$", re.IGNORECASE | re.MULTILINE)


def with_retry_after(failure: Failure, head: ResponseHead) -> Failure:
    """`failure` with what its response head says of when to come back."""
    found = _HEADER.search(head.passed_on)
    if found is None:
        return failure
    wait_s = int(found.group(1))
    return replace(failure, told_to_wait_s=wait_s, retry_after_s=wait_s)
