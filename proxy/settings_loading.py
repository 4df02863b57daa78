"""Fills the settings tree: flags over environment over TOML file over defaults, validated once."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from proxy.errors import SettingsError
from proxy.settings import Settings
from proxy.settings_catalogue import LEAVES, SECTIONS, Given, Leaf, nearest, shown
from proxy.settings_flags import CommandLine, flags_of

_FILES = {f"{leaf.dotted}_file": leaf for leaf in LEAVES.values() if leaf.secret}
"""The names that stand for a secret in a file of its own."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, and what is to be told of them."""

    settings: Settings
    origins: Mapping[str, str]
    """By dotted name, where a value that is no default came from."""
    notices: tuple[str, ...]
    """What an operator should know; nothing in them stops a start."""


def load(line: CommandLine, environ: Mapping[str, str]) -> Loaded:
    """Merges all sources and validates the result.

    Raises:
        SettingsError: names every setting that is wrong, what was given and where, and what is allowed.
    """
    variables, notices = _environment(environ)
    path = line.config or environ.get("PD_CONFIG")
    file = _file(Path(path)) if path else {}
    given: dict[str, Given] = {}
    for source in (file, variables, line.given):
        given.update(_with_secrets_read(source))
    settings = _validated(given)
    if not (settings.discovery.etcd_endpoints or settings.static.prefill or settings.static.decode):
        notices.append(
            "no workers are named (--etcd, or --prefill and --decode): only POST /workers can add some"
        )
    origins = {dotted: each.origin for dotted, each in given.items()}
    return Loaded(settings, origins, (*line.notices, *notices))


def _environment(environ: Mapping[str, str]) -> tuple[dict[str, Given], list[str]]:
    """What the environment gives. Strangers that look like ours are only told of: Kubernetes makes some."""
    names = {leaf.variable: leaf.dotted for leaf in LEAVES.values()}
    names |= {f"{leaf.variable}_FILE": dotted for dotted, leaf in _FILES.items()}
    given: dict[str, Given] = {}
    notices: list[str] = []
    for variable, value in environ.items():
        if variable in names:
            given[names[variable]] = Given(value, f"environment variable {variable}")
        elif variable.startswith(tuple(f"PD_{section.upper()}_" for section in SECTIONS)):
            notices.append(f"environment variable {variable} is no setting{nearest(variable, names)}")
    return given, notices


def _file(path: Path) -> dict[str, Given]:
    try:
        with path.open("rb") as stream:
            tree = tomllib.load(stream)
    except OSError as error:
        raise SettingsError(f"settings file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path} is not TOML: {error}") from error
    given: dict[str, Given] = {}
    for section, keys in tree.items():
        if section not in SECTIONS:
            raise SettingsError(
                f"settings file {path}: there is no section [{section}]{nearest(section, SECTIONS)}"
            )
        if not isinstance(keys, dict):
            raise SettingsError(f"settings file {path}: {section} is a section: write [{section}]")
        for name, value in keys.items():
            dotted = f"{section}.{name}"
            if dotted not in LEAVES and dotted not in _FILES:
                raise SettingsError(
                    f"settings file {path}: there is no {dotted}{nearest(dotted, [*LEAVES, *_FILES])}"
                )
            given[dotted] = Given(value, f"{path}")
    return given


def _with_secrets_read(source: Mapping[str, Given]) -> dict[str, Given]:
    """One source, where each file of a secret is replaced by the secret in it."""
    given = {dotted: each for dotted, each in source.items() if dotted not in _FILES}
    for dotted in source.keys() & _FILES.keys():
        leaf, origin = _FILES[dotted], source[dotted].origin
        if leaf.dotted in given:
            raise SettingsError(
                f"{leaf.dotted} is given twice: by {given[leaf.dotted].origin} and by {origin}"
            )
        path = Path(str(source[dotted].value))
        try:
            secret = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"{leaf.dotted}: the file {path} ({origin}) cannot be read: {error}"
            ) from error
        given[leaf.dotted] = Given(secret, f"file {path} ({origin})")
    return given


def _validated(given: Mapping[str, Given]) -> Settings:
    tree: dict[str, dict[str, object]] = {section: {} for section in SECTIONS}
    for dotted, each in given.items():
        leaf = LEAVES[dotted]
        tree[leaf.section][leaf.name] = _or_none(leaf, each.value)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        problems: dict[str, str] = {}
        for detail in error.errors(include_url=False, include_context=False):
            dotted = ".".join(str(part) for part in detail["loc"][:2])
            problems.setdefault(dotted, _problem(LEAVES[dotted], detail["msg"], given.get(dotted)))
    raise SettingsError("\n".join(problems.values()))


def _or_none(leaf: Leaf, value: object) -> object:
    return None if leaf.optional and isinstance(value, str) and value.lower() in ("", "none") else value


def _problem(leaf: Leaf, message: str, given: Given | None) -> str:
    value = "" if given is None else " a secret (not shown)" if leaf.secret else f" {given.value!r}"
    source = (
        f"{value.strip()} by {given.origin}"
        if given
        else f"nothing; the default is {shown(leaf, leaf.default)}"
    )
    why = message.removeprefix("Value error, ").removeprefix("Input ")
    names = [*flags_of(leaf), leaf.variable]
    return (
        f"bad setting {leaf.dotted}: {why}\n"
        f"  given:   {source}\n"
        f"  allowed: {leaf.allowed}; the default is {shown(leaf, leaf.default)}\n"
        f"  set by:  {', '.join(names)}, or {leaf.name} under [{leaf.section}] in the TOML file"
    )
