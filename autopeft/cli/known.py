"""What the installed parts say about themselves, kept between calls: importing them takes seconds.

The notes lie in the user's cache folder, under a name that changes with every file that a part is made of,
so that they are never out of date. Where they cannot be written, every call imports the parts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from autopeft.errors import RunDirError
from autopeft.extension import Catalogue, Method, discover
from autopeft.records import VERSION, path_at_home
from autopeft.store import write_text


def known_methods() -> Catalogue[Mapping[str, Any]]:
    """The facts about every method, by its name; an unknown name raises UnknownNameError."""
    return _known("method", method_facts)


def known_formats() -> Catalogue[Mapping[str, Any]]:
    """Name and summary of every format that `export` writes, as `known_methods`."""
    return _known("export", lambda exporter: {"name": exporter.name, "summary": exporter.summary})


def _known(kind: str, facts_of: Callable[[Any], Mapping[str, Any]]) -> Catalogue[Mapping[str, Any]]:
    group = f"autopeft.{kind}s"
    path = _folder() / f"{kind}s-{_fingerprint(group)}.json"
    is_kept = path.is_absolute()  # not where the system knows no home of this user
    with contextlib.suppress(OSError, ValueError):
        if is_kept:
            return Catalogue(kind, json.loads(path.read_text(encoding="utf-8")))
    parts: Catalogue[Any] = discover(group)
    text = json.dumps({part.name: facts_of(part) for part in parts.values()})
    if is_kept and not parts.broken:  # whose warning the next call should give too
        with contextlib.suppress(RunDirError):
            write_text(path, text)
    return Catalogue(kind, json.loads(text), parts.broken)


def method_facts(method: Method) -> dict[str, Any]:
    """Everything about one method that is text, numbers or lists of them."""
    facts = {name: getattr(method, name) for name in Method.__annotations__}
    return {**facts, "servers": list(method.servers({}))}


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or path_at_home("~/.cache")
    return Path(base) / "autopeft"


def _fingerprint(group: str) -> str:
    """16 hexadecimal digits over the files of a group of parts and the packages that bring more of them."""
    digest = hashlib.sha256(VERSION.encode())
    package, _, name = group.partition(".")
    folder = Path(str(resources.files(package))) / name
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    for entry in sorted(metadata.entry_points(group=group)):
        brought_by = f"{entry.dist.name} {entry.dist.version}" if entry.dist else ""
        digest.update(f"{entry.value} {brought_by}".encode())
    return digest.hexdigest()[:16]
