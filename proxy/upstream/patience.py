"""How long one request is ready to wait, where its client has said so."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from proxy.upstream.exchange_rules import ExchangeRules


class Patience(msgspec.Struct, frozen=True):
    """Limits of one request, in seconds; None: those of the settings."""

    total_s: float | None = None
    """For the whole of an answer that is not streamed; of a stream, for attempts to begin."""
    first_token_s: float | None = None
    between_chunks_s: float | None = None

    def over(self, rules: ExchangeRules) -> ExchangeRules:
        """`rules` with these limits in the place of theirs."""
        first_s = rules.first_token_s if self.first_token_s is None else self.first_token_s
        return replace(
            rules,
            total_s=rules.total_s if self.total_s is None else self.total_s,
            first_token_s=first_s,
            # A longer limit for the first token does not make an engine that lost its prefill any quicker.
            first_token_after_prefill_s=min(first_s, rules.first_token_after_prefill_s),
            between_chunks_s=(
                rules.between_chunks_s if self.between_chunks_s is None else self.between_chunks_s
            ),
        )
