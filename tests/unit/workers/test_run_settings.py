"""The settings of a worker's running stand in the docs, as they are."""

from __future__ import annotations

import re
from pathlib import Path

from workers.run_settings import RunSettings

DOCS = Path(__file__).resolve().parents[3] / "docs" / "workers-running.md"


def test_every_setting_is_documented_with_its_default() -> None:
    table = DOCS.read_text().partition("## Settings")[2]
    told = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", table, re.MULTILINE))
    settings = RunSettings()
    words = {None: "none", True: "true", False: "false"}
    shown = {
        name: words[value] if value is None or isinstance(value, bool) else f"{value:g}"
        for name in RunSettings.model_fields
        for value in [getattr(settings, name)]
    }
    assert told == shown
