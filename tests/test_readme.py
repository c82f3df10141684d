"""What the README says of methods and scores is what they are."""

from __future__ import annotations

from readme_tables import README, filled


def test_tables_are_those_of_the_parts() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == filled(text), "run: python tests/readme_tables.py"
