"""Settings of a run for tests, by the short names that flags and Python have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autopeft.store import by_dotted_name, resolve_settings
from autopeft.types import RunSpec


def run_spec(model: Path | str | None = None, data: Path | str | None = None, **settings: Any) -> RunSpec:
    """`run_spec(model_dir, data_dir, trials=4, budget="5%", **{"data.label_kind": "class"})`."""
    names = {"model": model, "data": data, **settings}
    flags = by_dotted_name({name: value for name, value in names.items() if value is not None})
    spec = resolve_settings(flags=flags)
    return spec
