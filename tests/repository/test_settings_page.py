"""The page of settings says what the declarations say."""

from __future__ import annotations

from autopeft.types import SETTINGS
from tools.docs.settings_page import PAGE, settings_page


def test_page_of_settings_is_that_of_the_declarations():
    assert PAGE.read_text(encoding="utf-8") == settings_page(), "run: python tools/docs/settings_page.py"


def test_page_has_one_row_per_setting():
    rows = [line for line in settings_page().splitlines() if line.startswith("| `")]
    assert sorted(row.split("`")[1] for row in rows) == sorted(SETTINGS)
