"""docs/upgrading-from-sglang-router.md, held against the tables by which the proxy reads its command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.errors import SettingsError
from proxy.router_flags import ROUTER_FLAGS, RouterFlag
from proxy.settings_catalogue import LEAVES, shown
from proxy.settings_flags import read
from proxy.settings_loading import load

PAGE = (Path(__file__).parents[2] / "docs" / "upgrading-from-sglang-router.md").read_text()
FLAG = re.compile(r"`(--[\w-]+)`")
TAKEN = "Taken: the flag sets one of our settings"
IDLE = "Taken, and without effect"
REFUSED = "Refused, and what to do instead"
BY_NAME = {flag.name: flag for flag in ROUTER_FLAGS}


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    part = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def flags(heading: str) -> list[RouterFlag]:
    return [BY_NAME[name] for row in rows(heading) for name in FLAG.findall(row[0])]


def words(flag: RouterFlag, value: str = "1") -> list[str]:
    return [flag.name] if flag.nargs == 0 else [flag.name, value]


def commands() -> Iterator[list[str]]:
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        yield from (shlex.split(line)[1:] for line in block.splitlines() if line.startswith("pd-proxy "))


def test_each_of_their_flags_stands_in_one_table_once() -> None:
    named = [flag.name for heading in (TAKEN, IDLE, REFUSED) for flag in flags(heading)]
    assert sorted(named) == sorted(BY_NAME)


def test_a_flag_that_is_taken_sets_what_the_page_says_and_has_that_default() -> None:
    for name, sets, _, ours, _ in rows(TAKEN):
        flag = BY_NAME[name.strip("`")]
        assert tuple(re.findall(r"`([\w.]+)`", sets)) == flag.settings
        assert re.findall(r"`([^`]+)`", ours) == [
            shown(LEAVES[one], LEAVES[one].default) for one in flag.settings
        ]
        assert set(flag.settings) <= set(read(words(flag)).given)


def test_a_flag_without_effect_is_taken_with_the_values_of_the_page_only() -> None:
    for name, values, _, why in rows(IDLE):
        flag = BY_NAME[name.strip("`")]
        only = re.fullmatch(r"`(.*)` only", values)
        taken = read(words(flag, only[1] if only else "7"))
        assert (taken.given, len(taken.notices), bool(why)) == ({}, 1, True)
        if only:
            with pytest.raises(SettingsError, match=re.escape(flag.name)):
                read(words(flag, "7"))
        else:
            assert (values == "any value") is (flag.nargs != 0)


def test_a_flag_that_is_refused_is_refused_by_name_and_the_page_says_what_to_do() -> None:
    for flag in flags(REFUSED):
        with pytest.raises(SettingsError, match=re.escape(f"{flag.name} of sglang-router is not supported")):
            read(words(flag))
    assert all(instead for _, instead in rows(REFUSED))


def test_our_flags_that_the_page_names_are_there() -> None:
    ours = {leaf.flag for leaf in LEAVES.values()} | {"--etcd", "--print-config"} | set(BY_NAME)
    text = PAGE.split("\n## Coming from mini_lb\n")[0]
    assert {name for name in re.findall(r"`(--[\w-]+)", text) if name not in ours} == set()


def test_the_command_lines_of_the_page_are_taken() -> None:
    found = [load(read(argv), {}).settings for argv in commands()]
    assert len(found) == 3
    assert [len(one.static.prefill) for one in found] == [1, 1, 2]
    assert [len(one.static.decode) for one in found] == [1, 1, 2]
