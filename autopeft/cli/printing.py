"""What all commands print alike: lines of one width, and JSON."""

from __future__ import annotations

import json
from typing import Any

COLUMNS = 80  # the width of a usual terminal


def print_json(content: Any) -> None:
    """Print one JSON object; infinite numbers and NaN, which JSON has not, raise ValueError."""
    print(json.dumps(content, indent=2, allow_nan=False))
