"""Write the table of docs/components.md: topology and components of tiny models of transformers.

Run `python tools/docs/components_page.py`. The configs are those of the tests.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import transformers

from autopeft.model.components import components, sizes_of, topology
from tools.docs.method_tables import markdown

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "components.md"
sys.path.insert(0, str(ROOT / "tests"))


def rows() -> Iterator[tuple[str, str, str]]:
    """Yield model type, topology, and modules and parameters of each component."""
    from toys.topologies import FAMILIES, TOPOLOGIES, build

    for name in sorted({**FAMILIES, **TOPOLOGIES}):
        model = build(name)
        sizes = sizes_of(model, components(model)).items()
        cells = [f"{part.replace('_', ' ')} {modules} ({params:,})" for part, (modules, params) in sizes]
        yield f"`{name}`", topology(model), ", ".join(cells)


def filled(page: str) -> str:
    """Return the page with a fresh table between its markers."""
    table = markdown(("model type", "topology", "modules (parameters) of each component"), rows())
    start, end = "<!-- table -->", "<!-- end of table -->"
    return re.sub(f"{start}.*{end}", f"{start}\n\n{table}\n\n{end}", page, flags=re.DOTALL)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
