"""Write autopeft/cli/plugins.json, which `autopeft methods` and `formats` list without importing plug-ins.

Run `python tools/docs/plugin_facts.py`.
"""

from __future__ import annotations

import json

from autopeft.cli.facts import FACTS, TABLE
from autopeft.plugins import discover


def table() -> str:
    """Return the content of the file, one line for each plug-in."""
    kinds = []
    for kind, facts_of in FACTS.items():
        parts = discover(f"autopeft.{kind}s").values()
        lines = ",\n".join(f'"{part.name}": {json.dumps(facts_of(part))}' for part in parts)
        kinds.append(f'"{kind}": {{\n{lines}\n}}')
    return "{\n" + ",\n".join(kinds) + "\n}\n"


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
