"""The workflow's job with the oldest dependencies installs the lower bounds of pyproject.toml."""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings tomli to Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[2]


def test_oldest_releases_are_the_lower_bounds_of_dependencies_and_extras() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [
        need for name in ("gguf", "quantize", "vision") for need in project["optional-dependencies"][name]
    ]
    bounds = [re.match(r"([\w-]+)>=([\d.]+)", need) for need in [*project["dependencies"], *extras]]
    assert all(bounds), "a dependency without a lower bound"
    lines = (ROOT / ".github" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    pinned = sorted(line for line in lines if not line.startswith("#"))
    assert pinned == sorted(f"{bound[1]}=={bound[2]}" for bound in bounds if bound)
