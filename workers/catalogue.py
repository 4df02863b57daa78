"""The models known by name: tensor parallel size, flags and environment, by role, SGLang version and GPU.

`models.toml` beside this file is the catalogue; a user's own file of the same form extends it.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from proxy.roster import Role
from workers.command import parse
from workers.errors import ConfigurationError
from workers.generations import Flag, Version

OWN = Path(__file__).with_name("models.toml")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_LONGEST_RANGE = 4096


def _spread(words: object) -> object:
    """`1..4` is `1 2 3 4`."""
    if not isinstance(words, list):
        return words
    spread: list[object] = []
    for word in words:
        found = _RANGE.fullmatch(word) if isinstance(word, str) else None
        if found is None:
            spread.append(word)
            continue
        first, last = int(found.group(1)), int(found.group(2))
        if not first <= last < first + _LONGEST_RANGE:
            raise ValueError(f"{word}: from the smaller to the larger, {_LONGEST_RANGE} numbers at most")
        spread.extend(str(number) for number in range(first, last + 1))
    return spread


Words = Annotated[tuple[str, ...], BeforeValidator(_spread)]


class Layer(BaseModel):
    """Flags and environment that are laid over those of the layers before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    without: tuple[str, ...] = Field(default=(), description="names of flags to take away first")
    flags: Words = Field(default=(), description="for every role")
    prefill: Words = Field(default=(), description="for prefill only")
    decode: Words = Field(default=(), description="for decode only")
    regular: Words = Field(default=(), description="for a worker that serves alone")
    dp_attention: Words = Field(default=(), description="where the attention is data parallel")
    env: dict[str, str] = Field(default_factory=dict, description="environment of the engine")

    def words(self, role: Role, dp_attention: bool) -> tuple[str, ...]:
        """Its words for one role, the special ones last."""
        own = {Role.PREFILL: self.prefill, Role.DECODE: self.decode, Role.REGULAR: self.regular}[role]
        return self.flags + own + (self.dp_attention if dp_attention else ())


class When(Layer):
    """A layer that holds for some engines or GPUs only."""

    since: str | None = Field(default=None, description="the first SGLang version that it holds for")
    until: str | None = Field(default=None, description="the first that it no longer holds for")
    gpu: Literal["amd", "nvidia"] | None = Field(default=None, description="the node's kind of GPU")

    def holds(self, version: Version, gpu: str | None) -> bool:
        """Whether it is about this engine on this node."""
        since = Version.parse(self.since) if self.since else None
        until = Version.parse(self.until) if self.until else None
        return (
            (since is None or version >= since)
            and (until is None or version < until)
            and (self.gpu is None or self.gpu == gpu)
        )


class Entry(Layer):
    """What is known of a model, or of a family of them."""

    tp_size: int | None = Field(default=None, ge=1, description="GPUs of one worker")
    when: tuple[When, ...] = ()


class Model(Entry):
    """One model."""

    base: str | None = Field(default=None, description="the entry of [bases] below this one")
    aliases: tuple[str, ...] = ()


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    defaults: Entry = Entry()
    bases: dict[str, Entry] = Field(default_factory=dict)
    models: dict[str, Model] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is said of one model for one role, engine and GPU; later flags win over earlier ones."""

    name: str | None
    """The model's name in the catalogue; None: it is not there."""
    tp_size: int
    flags: tuple[Flag, ...]
    env: dict[str, str]


class Catalogue:
    """The known models. Immutable."""

    def __init__(self, file: _File) -> None:
        self._file = file
        self._names = {alias: name for name, model in file.models.items() for alias in (*model.aliases, name)}
        for name, model in file.models.items():
            if model.base is not None and model.base not in file.bases:
                raise ConfigurationError(
                    f"catalogue: model {name} has the base {model.base!r}, which [bases] does not have"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """All models' names, without the aliases."""
        return tuple(sorted(self._file.models))

    def name_of(self, model: str) -> str | None:
        """The name of a model that is asked for by name, alias, or the last part of either."""
        return self._names.get(model) or self._names.get(model.rstrip("/").rpartition("/")[2])

    def folders_of(self, name: str) -> tuple[str, ...]:
        """Names that the folder of its weights may have."""
        model = self._file.models[name]
        last = (alias.rpartition("/")[2] for alias in model.aliases)
        return tuple(dict.fromkeys((name, *model.aliases, *last)))

    def unknown(self, model: str) -> ConfigurationError:
        """The error to raise for a model that is neither known nor a path."""
        lowered = {known.lower(): name for known, name in self._names.items()}
        close = difflib.get_close_matches(model.rpartition("/")[2].lower(), lowered, n=1, cutoff=0.6)
        hint = f" Did you mean {lowered[close[0]]}?" if close else ""
        return ConfigurationError(
            f"model: {model!r} is neither a folder nor a known model.{hint} Known: {', '.join(self.names)}. "
            "Give the path of its folder, or add it with --catalogue FILE"
        )

    def recipe(
        self, name: str | None, role: Role, version: Version, gpu: str | None, *, dp_attention: bool = False
    ) -> Recipe:
        """What is said of a model, or of any model for None."""
        tp_size, env = 1, dict[str, str]()
        flags: list[Flag] = []
        for layer in self._layers(name, version, gpu):
            flags = [flag for flag in flags if flag.name not in layer.without]
            flags += parse(layer.words(role, dp_attention))
            env |= layer.env
            tp_size = (layer.tp_size if isinstance(layer, Entry) else None) or tp_size
        return Recipe(name, tp_size, tuple(flags), env)

    def _layers(self, name: str | None, version: Version, gpu: str | None) -> Iterator[Layer]:
        for entry in self._entries(name):
            yield entry
            yield from (layer for layer in entry.when if layer.holds(version, gpu))

    def _entries(self, name: str | None) -> Iterator[Entry]:
        yield self._file.defaults
        if name is None:
            return
        model = self._file.models[name]
        if model.base is not None:
            yield self._file.bases[model.base]
        yield model


def load(own: Path | None = None) -> Catalogue:
    """The catalogue of this package, and over it the user's own file.

    Raises:
        ConfigurationError: a file cannot be read or is not of the form; the message names the entry.
    """
    files = [_read(OWN)] + ([_read(own)] if own is not None else [])
    defaults = files[-1].defaults if "defaults" in files[-1].model_fields_set else files[0].defaults
    bases = {name: base for file in files for name, base in file.bases.items()}
    models = {name: model for file in files for name, model in file.models.items()}
    return Catalogue(_File(defaults=defaults, bases=bases, models=models))


def _read(path: Path) -> _File:
    try:
        return _File.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise ConfigurationError(f"catalogue: cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"catalogue: {path} is not TOML: {error}") from None
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise ConfigurationError("\n".join(f"catalogue: {path}: {line}" for line in lines)) from None
