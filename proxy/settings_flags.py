"""The command line: flags made from the settings tree, and those of sglang-router beside them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from proxy.errors import SettingsError
from proxy.router_flags import ROUTER_FLAGS, RouterFlag
from proxy.settings_catalogue import LEAVES, SECTIONS, Given, Leaf, nearest, shown

SHORT = {"--etcd": "discovery.etcd_endpoints"}
"""Our own short names; the other short ones are sglang-router's."""

_EPILOG = """\
Every setting can stand in three more places, the first of them winning: a flag, the environment
variable PD_SECTION_NAME (PD_LIMITS_BODY_BYTES), the TOML file ([limits] body_bytes = "1GiB").
Secrets come from the environment, from the TOML file, or from a file of their own, not from a flag.

  pd-proxy --etcd http://etcd-0:2379,http://etcd-1:2379
  pd-proxy --prefill http://p0:30000 8998 --decode http://d0:30000 --policy round_robin
"""


def flags_of(leaf: Leaf) -> list[str]:
    """All the flags that set it, but those of sglang-router that write the value in another way."""
    short = [name for name, dotted in SHORT.items() if dotted == leaf.dotted]
    theirs = [flag.name for flag in ROUTER_FLAGS if leaf.dotted in flag.settings and flag.convert is str]
    return list(dict.fromkeys([leaf.flag, *short, *theirs]))


@dataclass(slots=True)
class CommandLine:
    """A command line, read but not yet validated."""

    given: dict[str, Given] = field(default_factory=dict)
    """By dotted name; that of a secret's file ends in `_file`."""
    notices: list[str] = field(default_factory=list)
    """What an operator should know of flags that were accepted without effect."""
    config: str | None = None
    wants: str | None = None
    """`help`, `version`, `print-config` or `print-docs`, where that is asked for."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"command line: {message}")


class _Record(argparse.Action):
    """Keeps the flags in their order, with their values as they were written."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        namespace.seen.append((self.option_strings[0], [values] if isinstance(values, str) else list(values)))


def parser() -> argparse.ArgumentParser:
    """The parser; `format_help` of it is `--help`."""
    made = _Parser(
        prog="pd-proxy",
        usage="pd-proxy [FLAG [VALUE]]...",
        description="Load balancer for SGLang in prefill/decode disaggregation.",
        epilog=_EPILOG,
        allow_abbrev=False,
        add_help=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=34, width=108
        ),
    )
    made.add_argument("-h", "--help", dest="wants", action="store_const", const="help", help="this")
    made.add_argument("--version", dest="wants", action="store_const", const="version", help="the version")
    made.add_argument(
        "--print-config",
        dest="wants",
        action="store_const",
        const="print-config",
        help="the settings as they would be used, as TOML, with the origin of each; secrets are not shown",
    )
    made.add_argument(
        "--print-docs", dest="wants", action="store_const", const="print-docs", help=argparse.SUPPRESS
    )
    made.add_argument("--config", metavar="FILE", help="TOML file of settings (or PD_CONFIG)")
    _add_ours(made)
    _add_theirs(made)
    return made


def _add_ours(made: argparse.ArgumentParser) -> None:
    for section, model in SECTIONS.items():
        group = made.add_argument_group(section, model.__doc__)
        for leaf in (leaf for leaf in LEAVES.values() if leaf.section == section):
            metavar: str | tuple[str, ...] = "FILE" if leaf.secret else leaf.kind.metavar
            nargs = "?" if leaf.kind.metavar == "BOOL" else "+" if leaf.dotted == "static.prefill" else None
            if nargs == "+":
                metavar = ("URL", "BOOTSTRAP_PORT")
            names = [leaf.flag, *(short for short, dotted in SHORT.items() if dotted == leaf.dotted)]
            group.add_argument(
                *names, action=_Record, nargs=nargs, const="true", metavar=metavar, dest="_", help=_help(leaf)
            )


def _help(leaf: Leaf) -> str:
    if leaf.secret:
        return f"file that holds: {_lowered(leaf.description)} Or {leaf.variable}.".replace("%", "%%")
    allowed = "" if leaf.kind.metavar in ("SECONDS", "BYTES", "N", "PORT") else f"{leaf.allowed}; "
    return f"{leaf.description} ({allowed}default {shown(leaf, leaf.default)})".replace("%", "%%")


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


def _add_theirs(made: argparse.ArgumentParser) -> None:
    group = made.add_argument_group(
        "names of sglang-router 0.3.2",
        "Its other flags are refused with the reason: docs/upgrading-from-sglang-router.md.",
    )
    ours = {leaf.flag for leaf in LEAVES.values()}
    for flag in ROUTER_FLAGS:
        if flag.name in ours:
            continue
        targets = " and ".join(LEAVES[dotted].flag.removesuffix("-file") for dotted in flag.settings)
        text = f"as {targets}" if targets else f"accepted: {flag.why}"
        group.add_argument(
            flag.name,
            action=_Record,
            nargs=None if flag.nargs == 1 else flag.nargs,
            metavar="X" if flag.nargs != 0 else None,
            dest="_",
            help=argparse.SUPPRESS if flag.refused else text,
        )


def read(argv: Sequence[str]) -> CommandLine:
    """Reads a command line.

    Raises:
        SettingsError: a flag is unknown, refused, lacks its value, or contradicts another.
    """
    known = parser()
    words, strangers = known.parse_known_args(list(argv), argparse.Namespace(seen=[]))
    if strangers:
        raise SettingsError(_unknown(strangers[0]))
    line = CommandLine(config=words.config, wants=words.wants)
    theirs = {flag.name: flag for flag in ROUTER_FLAGS}
    ours = {leaf.flag: leaf for leaf in LEAVES.values()}
    for name, values in words.seen:
        if name in ours:
            _take(line, ours[name], name, values)
        else:
            _take_theirs(line, theirs[name], values)
    return line


def _unknown(word: str) -> str:
    if not word.startswith("-"):
        return f"command line: {word!r} belongs to no flag"
    name = word.partition("=")[0]
    names = [leaf.flag for leaf in LEAVES.values()] + [flag.name for flag in ROUTER_FLAGS if not flag.refused]
    suggestion = nearest(name, [*names, *SHORT, "--config", "--print-config", "--version"])
    return f"command line: there is no flag {name}{suggestion}"


def _take_theirs(line: CommandLine, flag: RouterFlag, values: list[str]) -> None:
    if flag.refused:
        raise SettingsError(f"{flag.name} of sglang-router is not supported: {flag.why}")
    if flag.only is not None:
        if flag.only and values[0] not in flag.only:
            raise SettingsError(f"{flag.name} {values[0]} of sglang-router is not supported: {flag.why}")
        line.notices.append(f"{flag.name}: {flag.why}")
    for dotted in flag.settings:
        _take(line, LEAVES[dotted], flag.name, [flag.convert(value) for value in values or [""]])


def _take(line: CommandLine, leaf: Leaf, flag: str, values: list[str]) -> None:
    """Notes a value; a list grows with each flag, of the rest the last one counts."""
    name = f"{leaf.dotted}_file" if leaf.secret and flag == leaf.flag else leaf.dotted
    origin = f"flag {flag}"
    before = line.given.get(name)
    if leaf.listed:
        so_far = list(before.value) if before and isinstance(before.value, list) else []
        line.given[name] = Given(so_far + ([values] if leaf.dotted == "static.prefill" else values), origin)
        return
    if before and before.origin != origin and before.value != values[0]:
        raise SettingsError(
            f"{leaf.dotted} is given twice: by {before.origin} and by {origin}; drop one of them"
        )
    line.given[name] = Given(values[0], origin)
