"""What the parts say about themselves, from a table: importing them takes seconds.

`scripts/part_facts.py` writes the table. Where other packages publish parts, all are imported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from autopeft.extension import Catalogue, Method, discover

TABLE = Path(__file__).with_name("parts.json")


def method_facts(method: Method) -> dict[str, Any]:
    """Everything about one method that is text, numbers or lists of them."""
    facts = {name: getattr(method, name) for name in Method.__annotations__}
    return {**facts, "servers": list(method.servers({}))}


FACTS: Mapping[str, Callable[[Any], Mapping[str, Any]]] = {
    "method": method_facts,
    "export": lambda exporter: {"name": exporter.name, "summary": exporter.summary},
}


def known(kind: str) -> Catalogue[Mapping[str, Any]]:
    """The facts about every part of a kind, by its name; an unknown name raises UnknownNameError."""
    group = f"autopeft.{kind}s"
    if metadata.entry_points(group=group):
        parts: Catalogue[Any] = discover(group)
        return parts.changed(FACTS[kind])
    return Catalogue(kind, json.loads(TABLE.read_text(encoding="utf-8"))[kind])
