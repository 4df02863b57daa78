"""The house rules that no linter knows. CONTRIBUTING.md says them in words."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("proxy", "workers", "bench", "deploy")
MOST_LINES = 340
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
LEFT_OVERS = re.compile(r"\b(TODO|FIXME|XXX|HACK|NotImplementedError)\b|pragma: no cover")
# Written in pieces, so that this file does not hold what it looks for.
MACHINE_PATHS = re.compile(
    "|".join((r"/wo" r"rk/", r"/ro" r"ot/", r"/ho" r"me/\w", r"files\.python" r"hosted"))
)


def python_files(*folders: str) -> list[Path]:
    """Our own source."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py") if not installed(path))


def installed(path: Path) -> bool:
    """Whether the bench or a long test has installed it here."""
    return any(path.is_relative_to(ROOT / folder) for folder in ("bench/build", "tests/e2e/.cache"))


def named(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def test_imports_run_one_way() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_file_holds_one_idea() -> None:
    long = [path for path in python_files(*PRODUCT) if len(path.read_text().splitlines()) > MOST_LINES]
    assert named(long) == [], f"over {MOST_LINES} lines"


def test_nothing_is_raised_inside_of_except_star() -> None:
    def raises(path: Path) -> bool:
        groups = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.TryStar)]
        inside = [node for group in groups for handler in group.handlers for node in ast.walk(handler)]
        return any(isinstance(node, ast.Raise) for node in inside)

    found = named([path for path in python_files(*PRODUCT) if raises(path)])
    assert found == [], "until Python 3.11.4 (Debian 12 has 3.11.2) a group comes of it"


def test_an_init_holds_a_docstring_and_nothing_else() -> None:
    def is_docstring_only(path: Path) -> bool:
        body = ast.parse(path.read_text()).body
        return len(body) == 1 and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)

    inits = [path for path in python_files(*PRODUCT) if path.name == "__init__.py"]
    assert inits
    assert named([path for path in inits if not is_docstring_only(path)]) == []


def test_a_name_says_what_is_in_it() -> None:
    files = python_files(*PRODUCT, "tests")
    vague = [path for path in files if VAGUE_NAMES & {path.stem, *path.relative_to(ROOT).parent.parts}]
    assert named(vague) == []


def test_nothing_is_left_over() -> None:
    found = [path for path in python_files(*PRODUCT, "tests") if path != Path(__file__)]
    assert named([path for path in found if LEFT_OVERS.search(path.read_text())]) == []


@pytest.mark.parametrize("suffix", [".py", ".md", ".sh", ".toml", ".c", ".h"])
def test_no_file_knows_the_machine_it_was_written_on(suffix: str) -> None:
    files = [path for folder in (*PRODUCT, "tests", "docs") for path in (ROOT / folder).rglob(f"*{suffix}")]
    files = [path for path in files if not installed(path)]
    files += ROOT.glob(f"*{suffix}")
    ours = [path for path in files if not path.is_relative_to(ROOT / "bench" / "build")]
    assert named([path for path in ours if MACHINE_PATHS.search(path.read_text())]) == []


def test_unit_tests_mirror_the_source() -> None:
    rooms = {path.parent.name for path in python_files(*PRODUCT)}
    folders = {path.parent for path in (ROOT / "tests" / "unit").rglob("test_*.py")}
    strangers = [folder for folder in folders if folder.name != "unit" and folder.name not in rooms]
    assert named(strangers) == [], "no package of the source has this name"


def test_every_test_is_collected() -> None:
    """pytest collects `test_*.py` only: tests in a file of another name would never run."""
    rest = [path for path in python_files("tests") if not path.name.startswith("test_")]
    holding = [path for path in rest if re.search(r"^(async )?def test_", path.read_text(), re.MULTILINE)]
    assert named(holding) == []
