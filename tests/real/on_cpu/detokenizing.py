"""SGLang's own detokenizer, asked line by line: python detokenizing.py MODEL.

Each line of its input is a JSON object, and is answered by a line:

- {"prompt": ids, "output": ids, "every": n}: what each event of a stream shows that tells n tokens at a time;
- {"texts": [ids, ...]}: what /detokenize says of each;
- {"said": ids}: all that a stream of these shows in the end.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import sglang_on_cpu  # noqa: F401 -- SGLang cannot be imported without it
from sglang.srt.managers import detokenizer_manager
from sglang.srt.managers.schedule_batch import INIT_INCREMENTAL_DETOKENIZATION_OFFSET
from sglang.srt.utils.hf_transformers.tokenizer import get_tokenizer


class Detokenizing:
    """A detokenizer without its process."""

    def __init__(self, folder: str) -> None:
        made = detokenizer_manager.DetokenizerManager.__new__(detokenizer_manager.DetokenizerManager)
        made.tokenizer = self.tokenizer = get_tokenizer(folder)
        made.vocab_size = len(made.tokenizer)
        made.disable_tokenizer_batch_decode = False
        made.decode_status = {}
        self._manager = made

    def tell(self, prompt: list[int], output: list[int], every: int) -> list[str]:
        """What each event of a stream shows."""
        context = prompt[-INIT_INCREMENTAL_DETOKENIZATION_OFFSET:]
        shown, told = [], 0
        while told + every <= len(output):
            new = output[told : told + every]
            batch = SimpleNamespace(
                rids=["a"],
                decoded_texts=[""],
                decode_ids=[new if told else context + new],
                read_offsets=[len(context)],
                finished_reasons=[None],
                no_stop_trim=[False],
                skip_special_tokens=[True],
                spaces_between_special_tokens=[True],
            )
            shown += self._manager._decode_batch_token_id_output(batch)
            told += every
        self._manager.decode_status.clear()
        return shown

    def said(self, ids: list[int]) -> str:
        """What it all comes to."""
        manager = self._manager
        return str(self.tokenizer.decode(manager._clamp_decode_ids(ids, manager.vocab_size)))

    def texts(self, lists: list[list[int]]) -> list[str]:
        """As the route does it."""
        return [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in lists]


def main() -> None:
    """Answers until its input ends."""
    detokenizing = Detokenizing(sys.argv[1])
    for line in sys.stdin:
        asked = json.loads(line)
        if "texts" in asked:
            found: object = detokenizing.texts(asked["texts"])
        elif "said" in asked:
            found = detokenizing.said(asked["said"])
        else:
            found = detokenizing.tell(**asked)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
