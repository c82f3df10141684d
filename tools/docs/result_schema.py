"""Write the JSON Schemas of result.json, trials.csv and the files of a trial to docs/.

Run `python tools/docs/result_schema.py`.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from autopeft.client import Score, Trial
from autopeft.report import ResultFile, TrialRow


def _schema(model: type[BaseModel], title: str) -> dict[str, Any]:
    schema = model.model_json_schema(mode="serialization")
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "title": title, **schema}


_DOCS = Path(__file__).parents[2] / "docs"
PAGES = {
    _DOCS / "result.schema.json": partial(_schema, ResultFile, "result.json of an autopeft run"),
    _DOCS / "trials.schema.json": partial(_schema, TrialRow, "row of trials.csv of an autopeft run"),
    _DOCS / "trial.schema.json": TypeAdapter(Trial).json_schema,
    _DOCS / "score.schema.json": TypeAdapter(Score).json_schema,
}


def schema_text(page: Path) -> str:
    """Return the content of a file."""
    return json.dumps(PAGES[page](), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(schema_text(page), encoding="utf-8")
