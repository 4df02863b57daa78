"""What the documentation says is there. (Settings and metrics have tests of their own.)"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

import proxy
from proxy.errors import PdError
from proxy.upstream.outcome import Outcome

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "bench" / "README.md"])
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
TABLE_ROW = re.compile(r"^\| `([a-z_]+)` \| ?([^|]*)\|", re.MULTILINE)
SOURCE = re.compile(r"`((?:proxy|workers|bench|deploy|tests)/[\w./-]+\.\w+|(?:proxy|workers)/[a-z_/]+)`")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them."""
    headings = HEADING.findall(FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page: Path) -> None:
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        path, _, anchor = unquote(link).partition("#")
        if "://" in path or path.startswith("mailto:"):
            continue
        target = (page.parent / path) if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_source_files_named_exist(page: Path) -> None:
    missing = [path for path in SOURCE.findall(page.read_text()) if not (ROOT / path).exists()]
    assert [path for path in missing if not path.startswith("bench/build")] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_targets_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`|&& |PYTHON=\S+ )make ([a-z][\w-]*)", page.read_text(), re.MULTILINE))
    assert named <= targets


def test_every_target_has_a_line_of_help() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split()
    told = re.findall(r"^([a-z][\w-]*):.*## ", makefile, re.MULTILINE)
    assert set(phony) - {"ask-again"} == set(told)


def test_the_readme_shows_the_line_that_the_launcher_prints() -> None:
    line = next(row for row in (ROOT / "README.md").read_text().splitlines() if row.startswith("curl "))
    launcher = (ROOT / "deploy" / "local" / "run.py").read_text()
    assert line.partition(" -d ")[2] in launcher


def rows(heading: str) -> dict[str, str]:
    """The first two columns of the table under a heading of docs/errors.md."""
    text = (ROOT / "docs" / "errors.md").read_text()
    return dict(TABLE_ROW.findall(text.split(f"\n## {heading}\n")[1].split("\n## ")[0]))


def errors_of_the_tree(kind: type[PdError] = PdError) -> Iterator[type[PdError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from errors_of_the_tree(each)


def test_every_error_code_is_documented_with_its_status() -> None:
    for module in pkgutil.walk_packages(proxy.__path__, "proxy."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    kinds = [kind for kind in errors_of_the_tree() if kind.__module__.startswith("proxy.")]
    documented = rows("Codes")
    assert {kind.code for kind in kinds} == set(documented)
    no_http = {"bad_setting"}
    wrong = [
        (kind.__name__, kind.status)
        for kind in kinds
        if kind.code not in no_http and str(kind.status) not in documented[kind.code]
    ]
    assert wrong == []


def test_every_outcome_is_documented() -> None:
    assert {outcome.value for outcome in Outcome} == set(rows("Outcomes"))
