"""What a test needs from outside: skipped without it, with the reason; a failure where CI_STRICT is set."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
LIMIT_S = 50.0


def program(name: str, where: str) -> str:
    """The path of a program. `where`: how to get it."""
    return shutil.which(name) or missing(f"no {name} on the PATH: {where}")


def module(name: str, where: str) -> ModuleType:
    """A package of Python. `where`: how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        missing(f"no module {name}: {where}")


def missing(reason: str) -> NoReturn:
    """Skips, or fails."""
    if os.environ.get("CI_STRICT"):
        pytest.fail(reason)
    pytest.skip(reason)


def promtool() -> str:
    return program("promtool", "apt-get install --no-install-recommends prometheus")


def documents(path: Path) -> list[Any]:
    """The documents of a YAML file."""
    yaml = module("yaml", "pip install pyyaml")
    return [one for one in yaml.safe_load_all(path.read_text()) if one is not None]


def done(command: Sequence[str], cwd: Path | None = None) -> str:
    """Runs a program; its output.

    Raises:
        AssertionError: it failed; says what it said.
    """
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert ran.returncode == 0, f"{' '.join(command)}\n{ran.stdout}{ran.stderr}"
    return ran.stdout
