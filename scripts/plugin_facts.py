"""What `autopeft methods` and `formats` list, made from the parts, so that listing them imports none.

    python scripts/plugin_facts.py

writes `autopeft/cli/plugins.json`; `tests/cli/test_known.py` holds it against the parts.
"""

from __future__ import annotations

import json

from autopeft.cli.facts import FACTS, TABLE
from autopeft.plugins import discover


def table() -> str:
    """The content of the file, a part a line."""
    kinds = []
    for kind, facts_of in FACTS.items():
        parts = discover(f"autopeft.{kind}s").values()
        lines = ",\n".join(f'"{part.name}": {json.dumps(facts_of(part))}' for part in parts)
        kinds.append(f'"{kind}": {{\n{lines}\n}}')
    return "{\n" + ",\n".join(kinds) + "\n}\n"


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
