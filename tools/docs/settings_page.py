"""Write docs/settings.md from the declarations in `autopeft/types/spec.py`.

Run `python tools/docs/settings_page.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from autopeft.types import SETTINGS
from autopeft.types.fields import Group, SettingField

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
_INTRODUCTION = """\
# Settings

A setting can be given in three places. The first one in this list wins:

1. by its flag: `--trials 30`;
2. by an environment variable, which is its name in capitals: `AUTOPEFT_SEARCH_TRIALS=30`;
3. in a YAML file, nested by topic: `--config run.yaml`.

In Python, write the flag as a keyword: `max_steps=50`. "demo" marks the default without model and dataset.
"""


def _choices(field: SettingField) -> str:
    """Return the choices after a colon, `: serial or ray`; empty if any value is allowed."""
    *most, last = field.choices or ("",)
    return f": {', '.join(most)} or {last}" if most else ""


def settings_page() -> str:
    """Return the page, one table for each group of `autopeft search --help`."""
    sections = [_INTRODUCTION]
    for group in get_args(Group):
        fields = [field for field in SETTINGS.values() if field.group == group]
        rows = [
            (
                f"`{field.name}`",
                f"`{field.flag}`",
                field.default_text,
                f"{field.help}{_choices(field)}.",
            )
            for field in fields
        ]
        header = ("setting", "flag", "default", "what it does")
        lines = (header, ("---",) * len(header), *rows)
        sections.append(f"## {group}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
    return "\n".join(sections)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(settings_page(), encoding="utf-8")
