"""What the README says of methods is what they are."""

from __future__ import annotations

from readme_tables import README, filled


def test_tables_of_methods_are_those_of_the_methods() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == filled(text), "run: python tests/readme_tables.py"
