"""What the installed methods say about themselves, kept between calls: importing them takes seconds.

The notes lie in the user's cache folder, under a name that changes with every file that a method is made of,
so that they are never out of date. Where they cannot be written, every call imports the methods.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from autopeft.errors import RunDirError
from autopeft.extension import Catalogue, Method, discover
from autopeft.records import VERSION, path_at_home
from autopeft.store import write_text

_GROUP = "autopeft.methods"


def known_methods() -> Catalogue[Mapping[str, Any]]:
    """The facts about every method, by its name; an unknown name raises UnknownNameError."""
    path = _folder() / f"methods-{_fingerprint()}.json"
    is_kept = path.is_absolute()  # not where the system knows no home of this user
    with contextlib.suppress(OSError, ValueError):
        if is_kept:
            return Catalogue("method", json.loads(path.read_text(encoding="utf-8")))
    methods: Catalogue[Method] = discover(_GROUP)
    text = json.dumps({method.name: method_facts(method) for method in methods.values()})
    if is_kept and not methods.broken:  # whose warning the next call should give too
        with contextlib.suppress(RunDirError):
            write_text(path, text)
    return Catalogue("method", json.loads(text), methods.broken)


def method_facts(method: Method) -> dict[str, Any]:
    """Everything about one method that is text, numbers or lists of them."""
    facts = {name: getattr(method, name) for name in Method.__annotations__}
    return {**facts, "servers": list(method.servers({}))}


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or path_at_home("~/.cache")
    return Path(base) / "autopeft"


def _fingerprint() -> str:
    """16 hexadecimal digits over the files of the methods and the packages that bring more of them."""
    digest = hashlib.sha256(VERSION.encode())
    folder = Path(str(resources.files(_GROUP.partition(".")[0]))) / "methods"
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    for entry in sorted(metadata.entry_points(group=_GROUP)):
        brought_by = f"{entry.dist.name} {entry.dist.version}" if entry.dist else ""
        digest.update(f"{entry.value} {brought_by}".encode())
    return digest.hexdigest()[:16]
