"""The limits of one attempt."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class ExchangeRules:
    """How long to wait for what, in seconds, and how much to hold."""

    first_token_s: float = 1800.0
    """While prefill's leg is alive; the whole of an answer that is not streamed."""
    first_token_after_prefill_s: float = 30.0
    stuck_s: float = inf
    """For the first token, of a request that seems to be lost: see `is_stuck`."""
    between_chunks_s: float = 300.0
    total_s: float | None = None
    """The whole of an answer that is not streamed, over all attempts."""
    drain_prefill_s: float = 30.0
    """How long a prefill leg may outlive the answer."""
    answer_bytes: int = 64 * 1024 * 1024
