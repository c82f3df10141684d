"""The JSON Schema of result.json, made from its models in `autopeft/report/schema.py`.

    python scripts/result_schema.py

writes `docs/result.schema.json`; `tests/report/test_schema.py` holds the file against the models.
"""

from __future__ import annotations

import json
from pathlib import Path

from autopeft.report import result_schema

PAGE = Path(__file__).parents[1] / "docs" / "result.schema.json"


def schema_text() -> str:
    """The content of the file."""
    return json.dumps(result_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PAGE.write_text(schema_text(), encoding="utf-8")
