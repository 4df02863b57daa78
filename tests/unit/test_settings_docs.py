"""docs/configuration.md is what the code says."""

from __future__ import annotations

from pathlib import Path

from proxy.settings_text import markdown

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_of_settings_is_up_to_date() -> None:
    assert PAGE.read_text() == markdown(), "run: python -m proxy --print-docs > docs/configuration.md"
