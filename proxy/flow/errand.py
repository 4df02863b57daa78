"""One order on its way, attempt after attempt."""

from __future__ import annotations

import msgspec

from proxy.flow.avoid import Avoid
from proxy.flow.continuation.telling import Telling
from proxy.flow.recipient import Recipient
from proxy.flow.trail import Trail
from proxy.routing.group import Group
from proxy.upstream.exchange import Upstream
from proxy.upstream.order import Order
from proxy.upstream.outcome import Failure


class Errand(msgspec.Struct):
    """What its attempts have in common, and what they have led to so far."""

    order: Order
    """The client's; once its stream has broken off, the one that goes on with it."""
    group: Group
    recipient: Recipient
    own_rid: str | list[str] | None
    trail: Trail
    upstream: Upstream
    deadline: float
    """Monotonic seconds by which the last attempt must begin; infinite: none."""
    attempts: int = 0
    """Those that count, since the last progress."""
    deaths: int = 0
    """Workers that have died with it in hand, since the last progress."""
    avoid: Avoid | None = None
    """None before the first failure."""
    telling: Telling | None = None
    """The stream, once it has begun."""
    result: Failure | None = None
    """How it ended; None: well, or not yet."""

    def ends(self, failure: Failure | None) -> bool:
        """Ends it, telling the client in the stream itself if one has begun. Says that it does not go on."""
        if failure is not None and self.telling is not None and not self.telling.over:
            failure = self.telling.give_up(failure)
        self.result = failure
        return False
