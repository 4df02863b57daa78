"""The settings one by one: the names by which each goes, and in words what it allows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import SecretStr

from proxy.settings import Settings
from proxy.settings_section import Section
from proxy.settings_values import Kind

_SIZES = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


@dataclass(frozen=True, slots=True)
class Given:
    """What somebody gave for a setting, and where, in words."""

    value: object
    origin: str


@dataclass(frozen=True, slots=True)
class Leaf:
    """One setting."""

    section: str
    name: str
    description: str
    default: object
    kind: Kind
    optional: bool
    """Whether None ("none") is a value of it."""
    listed: bool
    secret: bool

    @property
    def dotted(self) -> str:
        """Its name in the tree and in the TOML file."""
        return f"{self.section}.{self.name}"

    @property
    def flag(self) -> str:
        """Its flag; that of a secret names a file, for everybody on a host can read flags."""
        flag = f"--{self.section}-{self.name}".replace("_", "-")
        return f"{flag}-file" if self.secret else flag

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"PD_{self.section}_{self.name}".upper()

    @property
    def allowed(self) -> str:
        """What it takes, in words."""
        text = f"a list of {self.kind.text}, separated by commas" if self.listed else self.kind.text
        return f"{text}; or none" if self.optional else text


def shown(leaf: Leaf, value: object) -> str:
    """A setting's value for people: sizes and times with their unit, never a secret."""
    if value is None or value == ():
        return "none"
    if leaf.secret:
        return "(secret)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value)
    if leaf.name.endswith("_per_s"):
        return f"{value:g}"
    if leaf.name.endswith("_s"):
        return f"{value:g}s"
    if leaf.name.endswith("_bytes") and isinstance(value, int):
        return next((f"{value // unit}{name}" for name, unit in _SIZES if value % unit == 0), str(value))
    return str(value)


def nearest(given: str, known: Iterable[str]) -> str:
    """A suggestion for a misspelt name, to end a sentence with; empty if nothing is near."""
    found = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


def _unwrapped(hint: Any) -> Iterator[Any]:
    """The hint, and whatever it wraps, outermost first."""
    yield hint
    if get_origin(hint) in (Annotated, Union, UnionType, tuple):
        yield from _unwrapped(get_args(hint)[0])


def _kind(hints: list[Any]) -> Kind:
    for hint in hints:
        for each in getattr(hint, "__metadata__", ()):
            if isinstance(each, Kind):
                return each
        if get_origin(hint) is Literal:
            return Kind("one of " + ", ".join(get_args(hint)), "NAME")
    return Kind("true or false", "BOOL")


def _leaf(section: str, model: type[Section], name: str) -> Leaf:
    field = model.model_fields[name]
    hints = list(_unwrapped(get_type_hints(model, include_extras=True)[name]))
    return Leaf(
        section=section,
        name=name,
        description=(field.description or "").strip(),
        default=field.default,
        kind=_kind(hints),
        optional=field.default is None,
        listed=any(get_origin(hint) is tuple for hint in hints),
        secret=SecretStr in hints,
    )


SECTIONS: dict[str, type[Section]] = {
    name: hint
    for name, hint in get_type_hints(Settings).items()
    if isinstance(hint, type) and issubclass(hint, Section)
}
LEAVES: dict[str, Leaf] = {
    leaf.dotted: leaf
    for section, model in SECTIONS.items()
    for leaf in (_leaf(section, model, name) for name in model.model_fields)
}
