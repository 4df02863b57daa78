"""A model's weights on this node: where they are, whether they are whole, and by what others know them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_CONFIG = "config.json"
_INDEX = "model.safetensors.index.json"
_TENSORS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
_LARGEST_BYTES = 256 * 2**20
"""why: the index of the largest models is some tens of MB; what is larger is no index."""


@dataclass(frozen=True, slots=True)
class Weights:
    """One model's folder."""

    path: Path
    fingerprint: str | None
    """Equal on all nodes whose config and list of tensors are equal; None: there is no config."""
    missing: tuple[str, ...] = ()
    """What is not there and should be."""


def candidates(
    model: str, names: Sequence[str], model_path: Path | None, folders: Iterable[Path]
) -> list[Path]:
    """Where the weights may be, the first choice first.

    Args:
        model: what the user asked for: a name, or itself a path.
        names: the folder's possible names.
        model_path: the folder itself, or a folder of models.
        folders: folders of models, in the order of search: the node's own NVMe before the shared disk.
    """
    found = [Path(model)] if is_path(model) else []
    if model_path is not None:
        found += [model_path, *(model_path / name for name in names)]
    found += [folder / name for folder in folders for name in names]
    return found


def is_path(model: str) -> bool:
    """Whether the user named a folder, and not a model."""
    return model.startswith(("/", "./", "../")) or Path(model).is_dir()


def locate(places: Iterable[Path]) -> Weights | None:
    """The first place that holds a model; None: none does."""
    for place in places:
        if (place / _CONFIG).is_file():
            return _examine(place)
    return None


def _examine(folder: Path) -> Weights:
    """Reads the small files only: no tensor is opened."""
    digest = hashlib.sha256(_read(folder / _CONFIG))
    index = _read(folder / _INDEX)
    if index:
        digest.update(index)
        missing = tuple(name for name in _listed(index) if not (folder / name).is_file())
    else:
        tensors = sorted(file for pattern in _TENSORS for file in folder.glob(pattern))
        for tensor in tensors:
            digest.update(f"{tensor.name} {tensor.stat().st_size}\n".encode())
        missing = () if tensors else (_TENSORS[0],)
    return Weights(folder, f"sha256:{digest.hexdigest()[:32]}", missing)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST_BYTES)
    except OSError:
        return b""


def _listed(index: bytes) -> list[str]:
    """The files that the index names, each once; its own name, if it cannot be read."""
    try:
        files = json.loads(index)["weight_map"].values()
    except (ValueError, KeyError, AttributeError, TypeError):
        return [f"a readable {_INDEX}"]
    return sorted({str(name) for name in files})
