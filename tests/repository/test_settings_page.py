"""The page of settings says what the declarations say."""

from __future__ import annotations

from tools.docs.settings_page import PAGE, settings_page


def test_page_of_settings_is_that_of_the_declarations():
    assert PAGE.read_text(encoding="utf-8") == settings_page(), "run: python tools/docs/settings_page.py"
