"""The simulated engines' tokenizer as a tokenizer.json, for proxies that cut texts themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.engine.oracle import EOS_ID, detokenize


def write_tokenizer(folder: Path) -> Path:
    """Writes tokenizer.json: known words with their space are one id, all else is bytes."""
    library = pytest.importorskip("tokenizers", reason="an extra: pip install 'pd-proxy[tokenizer]'")
    letters = _letters()
    # The ids of bytes are the bytes; those of words come after them.
    vocabulary = {letters[byte]: byte for byte in range(256)}
    for word in range(256, EOS_ID):
        vocabulary["".join(letters[byte] for byte in detokenize([word]).encode())] = word
    made = library.Tokenizer(library.models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    byte_level = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = library.pre_tokenizers.Split(library.Regex(r" \p{L}+"), "isolated")
    made.pre_tokenizer = library.pre_tokenizers.Sequence([words, byte_level])
    made.decoder = library.decoders.ByteLevel()
    path = folder / "tokenizer.json"
    made.save(str(path))
    return path


def _letters() -> list[str]:
    """The letter that stands for each byte in byte-level vocabularies: itself, if it can be printed."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printed}
    for byte in range(256):
        if byte not in letters:
            letters[byte] = chr(256 + len(letters) - len(printed))
    return [letters[byte] for byte in range(256)]
