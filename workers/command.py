"""The command line of sglang.launch_server as values: read, laid over each other, written. No shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from workers.errors import ConfigurationError
from workers.generations import Flag

_NAME = re.compile(r"--[a-zA-Z][\w-]*")
_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "--model": "--model-path",
        "--tp": "--tp-size",
        "--tensor-parallel-size": "--tp-size",
        "--dp": "--dp-size",
        "--data-parallel-size": "--dp-size",
        "--attention-data-parallel-size": "--attn-dp-size",
        "--pp": "--pp-size",
        "--pipeline-parallel-size": "--pp-size",
        "--ep": "--ep-size",
        "--expert-parallel-size": "--ep-size",
        "--nccl-init-addr": "--dist-init-addr",
    }
)
"""SGLang's second names, and the first."""

_OWNED: Mapping[str, str] = MappingProxyType(
    {
        "--model-path": "--model, and --model-path for its folder",
        "--served-model-name": "--served-model-name before the `--`",
        "--disaggregation-mode": "--role",
        "--disaggregation-transfer-backend": "--transfer-backend",
        "--disaggregation-ib-device": "--ib-devices",
        "--disaggregation-bootstrap-port": "--bootstrap-port",
        "--host": "--host before the `--`",
        "--port": "--port before the `--`",
        "--tp-size": "--tp-size before the `--`",
        "--dp-size": "--dp-size before the `--`",
        "--attn-dp-size": "--dp-size N --dp-attention",
        "--enable-dp-attention": "--dp-size N --dp-attention",
        "--nnodes": "--nnodes before the `--`",
        "--node-rank": "--node-rank before the `--`",
        "--dist-init-addr": "--dist-init-addr before the `--`",
        "--api-key": "the variable PD_WORKER_API_KEY",
        "--config": "the flags themselves",
    }
)
"""Flags that pd-worker sets, for the registry must say the same; and the setting that each stands for."""

_SECRET = re.compile(r"api-key|password|passphrase|token$|secret", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(r"KEY$|PASSWORD|TOKEN$|SECRET|CREDENTIAL", re.IGNORECASE)
REDACTED = "<redacted>"
_WIDTH = 100


def parse(words: Iterable[str], setting: str = "catalogue") -> list[Flag]:
    """Reads words of a command line; second names become the first ones.

    Raises:
        ConfigurationError: a value stands before any flag.
    """
    flags: list[Flag] = []
    for word in words:
        name, equals, value = word.partition("=")
        if _NAME.fullmatch(name):
            flags.append(Flag(_ALIASES.get(name, name), (value,) if equals else ()))
        elif flags:
            flags[-1] = Flag(flags[-1].name, (*flags[-1].values, word))
        else:
            raise ConfigurationError(
                f"{setting}: {word!r} stands before any flag of sglang.launch_server: write --name value"
            )
    return flags


def check_owners(flags: Iterable[Flag], setting: str) -> None:
    """Refuses flags that are pd-worker's to set, abbreviations of them too (SGLang would understand those).

    Raises:
        ConfigurationError: it names the flag and the setting to use in its place.
    """
    for flag in flags:
        for owned, instead in _OWNED.items():
            if owned == flag.name or (len(flag.name) > 4 and owned.startswith(flag.name)):
                raise ConfigurationError(f"{setting}: {flag.name} is set by pd-worker itself: use {instead}")


def overlay(flags: Iterable[Flag]) -> list[Flag]:
    """Each flag once: the last one of a name wins, and stands where the first stood."""
    return list({flag.name: flag for flag in flags}.values())


def words(flags: Iterable[Flag]) -> list[str]:
    """The flags as words of a command line; a value that looks like a flag is tied to its name."""
    found: list[str] = []
    for name, values in flags:
        if len(values) == 1 and values[0].startswith("-"):
            found.append(f"{name}={values[0]}")
        else:
            found += [name, *values]
    return found


def redacted(argv: Sequence[str]) -> list[str]:
    """The words with every secret's value taken out."""
    safe: list[str] = []
    hide = False
    for word in argv:
        name, equals, _ = word.partition("=")
        if _NAME.fullmatch(name):
            hide = bool(_SECRET.search(name))
            safe.append(f"{name}={REDACTED}" if hide and equals else word)
        else:
            safe.append(REDACTED if hide else word)
    return safe


def redacted_env(env: Mapping[str, str]) -> dict[str, str]:
    """The variables with every secret's value taken out, by name."""
    return {name: REDACTED if _SECRET_VARIABLE.search(name) else value for name, value in sorted(env.items())}


def shell_lines(argv: Sequence[str]) -> list[str]:
    """The command for a shell, one flag a line, long ones folded; what a shell reads of it is `argv`."""
    lines: list[str] = []
    for word in map(shlex.quote, argv):
        starts = not lines or bool(_NAME.match(word))
        if starts or len(lines[-1]) + len(word) > _WIDTH:
            lines.append(word if starts else f"  {word}")
        else:
            lines[-1] += f" {word}"
    return lines
