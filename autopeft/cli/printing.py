"""What all commands print alike: lines of one width, and JSON."""

from __future__ import annotations

import json
import shutil
from typing import Any

COLUMNS = 80  # the width of a usual terminal


def columns() -> int:
    """The width of lines of text: that of the terminal, at most 80."""
    return min(COLUMNS, room())


def room() -> int:
    """The width of the terminal; 80 in a file or a pipe."""
    return shutil.get_terminal_size((COLUMNS, 24)).columns


def print_json(content: Any) -> None:
    """Print one JSON object; infinite numbers and NaN, which JSON has not, raise ValueError."""
    print(json.dumps(content, indent=2, allow_nan=False))
