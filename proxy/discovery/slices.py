"""Slices: long work on the loop is done some records at a time, with everybody else's turn in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

SLICE = 100
"""why: reading a record takes 10 to 20 us; no slice may hold the loop for more than a few ms."""


def in_slices(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """`items` in their order, at most `SLICE` at a time."""
    for start in range(0, len(items), SLICE):
        yield items[start : start + SLICE]
