"""The JSON Schemas of result.json, trials.csv and the files of a trial, made from their models.

    python scripts/result_schema.py

writes them to `docs/`; `tests/report/test_schema.py` holds the files against the models.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import TypeAdapter

from autopeft.report import result_schema, trials_schema
from autopeft.run.trials import Score, Trial

_DOCS = Path(__file__).parents[1] / "docs"
PAGES = {
    _DOCS / "result.schema.json": result_schema,
    _DOCS / "trials.schema.json": trials_schema,
    _DOCS / "trial.schema.json": Trial.model_json_schema,
    _DOCS / "score.schema.json": TypeAdapter(Score).json_schema,
}


def schema_text(page: Path) -> str:
    """The content of a file."""
    return json.dumps(PAGES[page](), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(schema_text(page), encoding="utf-8")
