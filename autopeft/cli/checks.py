"""What `doctor` prints: one line a check, with its remedy beneath."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from autopeft.cli.printing import columns

if TYPE_CHECKING:
    from autopeft.doctor import Check

_MARKS = {"ok": "ok", "note": "note", "fail": "FAIL"}


def checks_text(checks: Sequence[Check]) -> str:
    """The checks of a machine in columns, and how many failed."""
    width = max(len(check.name) for check in checks)
    indent = " " * (width + 8)
    lines = []
    for check in checks:
        head = f"{_MARKS[check.status]:<6}{check.name:<{width}}  "
        for start, text in ((head, check.value), (indent, check.remedy)):
            lines += wrap(text, columns(), initial_indent=start, subsequent_indent=indent)
    n_failed = sum(check.status == "fail" for check in checks)
    end = f"{n_failed} of {len(checks)} checks failed." if n_failed else "Nothing fails here."
    return "\n".join([*lines, "", end])
