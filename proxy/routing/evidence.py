"""How often somebody failed of late, and whether that is clearly more often than its peers do.

The question is asked after every failure of whole fleets, so it must hardly ever be answered wrongly,
and it is asked of few requests, so the answer must not wait for many. Hence:

- **Compared with the better part of the peers**, the lower quartile of their rates, not their mean: it
  stands still while half of a fleet fails, and to bench somebody helps only if there is somewhere better
  to go. A fleet that fails everywhere alike has a high quartile, and nobody stands above it.
- **A margin in odds.** Four times the peers' odds of failing; at a rate near 1 a difference of rates has
  no room left. Peers count as failing 5 % at least, for a clean record of a few requests proves no more;
  so the least rate that can convict is 17 %.
- **A bound on chance.** By Chernoff, n requests that fail with probability q each fail at a rate x or
  above with probability exp(-n * KL(x, q)) at most. Below 1 in 100,000 it was not chance. With perfect
  peers that is 8 failures of 8, or 21 of 42. What fails 5 % at random makes 8 of 8 once in 10^10.
- **Over every span of the window**, from the last few seconds to the whole: what has just broken is seen
  at once, however long it was well.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection

SPANS = 20
"""Parts of a window, in which it moves on."""
_USUAL_RATE = 0.05
_ODDS_MARGIN = 4.0
_CHANCE = -math.log(1e-5)

Count = tuple[int, int]
"""Requests, and how many of them failed."""


class Tally:
    """Requests and failures of the last window, in parts that are numbered alike in all tallies."""

    __slots__ = ("_parts", "forgiven")

    def __init__(self) -> None:
        self._parts: deque[list[int]] = deque(maxlen=SPANS)  # number, requests, failures; the newest last
        self.forgiven = -1
        """The number of the last part that is no evidence any more; it still counts against others."""

    def add(self, part: int, failed: int) -> None:
        """Counts one request in the part of now; `failed` is 1 or 0."""
        parts = self._parts
        if not parts or parts[-1][0] != part:
            parts.append([part, 1, failed])
        else:
            newest = parts[-1]
            newest[1] += 1
            newest[2] += failed

    def spans(self, part: int, forgiven: int) -> list[Count]:
        """Counts of the part of now alone, of the last two together, and so on to the whole window.

        Args:
            part: the number of the part of now.
            forgiven: parts up to this number are left out.
        """
        by_number = {counted[0]: counted for counted in self._parts if counted[0] > forgiven}
        requests = failures = 0
        spans = []
        for number in range(part, part - SPANS, -1):
            counted = by_number.get(number)
            if counted is not None:
                requests += counted[1]
                failures += counted[2]
            spans.append((requests, failures))
        return spans

    def rate(self, part: int) -> float:
        """How much of what came in the window failed; 0 if nothing came."""
        requests, failures = self.spans(part, self.forgiven)[-1]
        return failures / requests if requests else 0.0


def without_worst(whole: list[Count], edges: Collection[list[Count]]) -> list[Count]:
    """What is left of a worker's spans without, in each, the edge whose failures exceed its average most."""
    if not edges:
        return whole
    left = []
    for (n, failed), counts in zip(whole, zip(*edges, strict=True), strict=True):
        average = failed / n if n else 0.0
        # An edge with a few failures of very many requests is not the worst, though others have fewer.
        excess = [theirs - m * average for m, theirs in counts]
        m, theirs = counts[excess.index(max(excess))]
        left.append((n - m, failed - theirs))
    return left


def stands_above(spans: list[Count], baseline: float, least_requests: int) -> bool:
    """Whether any span shows a rate of failures clearly above `baseline`, a rate."""
    usual = max(baseline, _USUAL_RATE)
    bound = _ODDS_MARGIN * usual / (_ODDS_MARGIN * usual + 1.0 - usual)
    return any(n >= least_requests and n * _divergence(failed / n, bound) >= _CHANCE for n, failed in spans)


def baseline(rates: Collection[float], clean: int = 0) -> float | None:
    """The lower quartile of peers' rates, `clean` of whom have none; None if there are no peers."""
    peers = len(rates) + clean
    if not peers:
        return None
    place = peers // 4
    return 0.0 if place < clean else sorted(rates)[place - clean]


def _divergence(rate: float, bound: float) -> float:
    """KL(rate, bound), nats; 0 for a rate that is not above the bound."""
    if rate <= bound:
        return 0.0
    if rate >= 1.0:
        return -math.log(bound)
    return rate * math.log(rate / bound) + (1.0 - rate) * math.log((1.0 - rate) / (1.0 - bound))
