"""The page of all settings, made from their declarations in `autopeft/records/spec.py`.

    python scripts/settings_page.py

writes `docs/settings.md`; `tests/repository/test_settings_page.py` holds the page against the declarations.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from autopeft.records import SETTINGS
from autopeft.records.fields import Group

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
_INTRODUCTION = """\
# Settings

A setting is given by its flag, by `--set search.trials=30`, by its environment variable, or by its name in
a YAML file (`--config run.yaml`, nested by topic). The earlier in this list wins; the default comes last.
In Python the flag's name is a keyword: `--max-steps 50` is `max_steps=50`. "demo" is the default where
neither a model nor a dataset is named. `train` and `analyze` read the variables of the flags that they have.
Paths of what a run reads are stored whole, and `~` is the home folder in every path.
"""


def settings_page() -> str:
    """The page: one table per group of `autopeft search --help`."""
    sections = [_INTRODUCTION]
    for group in get_args(Group):
        fields = [field for field in SETTINGS.values() if field.group == group]
        rows = [
            (
                f"`{field.name}`",
                f"`{field.flag}`" if field.flag else "",
                f"`{field.variable}`",
                field.default_text,
                f"{field.help}{field.choices_text}.",
            )
            for field in fields
        ]
        header = ("setting", "flag", "environment variable", "default", "what it does")
        lines = (header, ("---",) * len(header), *rows)
        sections.append(f"## {group}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
    return "\n".join(sections)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(settings_page(), encoding="utf-8")
