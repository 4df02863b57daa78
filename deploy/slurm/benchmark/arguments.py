"""What a benchmark process says of itself at its start: `Namespace(dataset_name='random', ...)`.

It is the log's own witness of which cell the output below belongs to, and of how many requests were sent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .cells import Cell

SHARED_PREFIX = "generated-shared-prefix"


@dataclass(frozen=True)
class Arguments:
    """Lengths in tokens. None: not said, or not comparable (a shared prefix may count as input, or not)."""

    isl: int | None
    osl: int | None
    concurrency: int | None
    prompts: int | None

    def contradict(self, cell: Cell) -> bool:
        """Whether this process measured another cell."""
        pairs = ((self.isl, cell.isl), (self.osl, cell.osl), (self.concurrency, cell.concurrency))
        return any(said is not None and said != asked for said, asked in pairs)


def read_arguments(line: str) -> Arguments | None:
    """None when the line is no such line, or is cut."""
    _, opening, said = line.partition("Namespace(")
    if not opening or not said.rstrip().endswith(")"):
        return None
    data_set = re.search(r"\bdataset_name='([^']*)'", said)
    concurrency = _value(said, "max_concurrency")
    if data_set and data_set[1] == SHARED_PREFIX:
        prefix, question = _value(said, "gsp_system_prompt_len"), _value(said, "gsp_question_len")
        groups, each = _value(said, "gsp_num_groups"), _value(said, "gsp_prompts_per_group")
        return Arguments(
            question if prefix == 0 else None,
            _value(said, "gsp_output_len"),
            concurrency,
            None if groups is None or each is None else groups * each,
        )
    random = data_set is not None and data_set[1].startswith("random")
    return Arguments(
        _value(said, "random_input_len") if random else None,
        _value(said, "random_output_len") if random else None,
        concurrency,
        _value(said, "num_prompts"),
    )


def _value(said: str, name: str) -> int | None:
    found = re.search(rf"\b{name}=(\d+)\b", said)
    return int(found[1]) if found else None
