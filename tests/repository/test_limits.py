"""Where everything may be caught, and which file names say nothing."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
# `measure` makes a failed trial a value; a future carries whatever its function raised, as in the stdlib;
# the client of a tracker, and a library that reads a user's file, may raise anything.
BROAD_EXCEPTS = {
    ("errors.py", "Exception"),
    ("cli/exit_codes.py", "BaseException"),  # every failure is one JSON object
    ("train/bench.py", "Exception"),
    ("commands/search.py", "Exception"),
    ("commands/tune.py", "Exception"),
    ("executors/serial.py", "Exception"),
    ("run/trackers.py", "Exception"),
    ("extension/discovery.py", "Exception"),
}
PACKAGE = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "autopeft").rglob("*.py"))
}


def broad_excepts(source):
    """What is caught whole and kept; a handler that ends in a bare `raise` only tidies up."""
    nodes = ast.walk(ast.parse(source))
    handlers = [h for h in nodes if isinstance(h, ast.ExceptHandler) and ast.unparse(h.body[-1]) != "raise"]
    caught = [ast.unparse(handler.type) if handler.type else "everything" for handler in handlers]
    return [name for name in caught if name in ("Exception", "BaseException", "everything")]


def test_broad_excepts_are_where_a_comment_says_why():
    found = {(name, caught) for name, text in PACKAGE.items() for caught in broad_excepts(text)}
    assert found == {(f"autopeft/{name}", caught) for name, caught in BROAD_EXCEPTS}


def test_no_file_is_a_drawer_for_odds_and_ends():
    assert not {Path(name).stem.strip("_") for name in PACKAGE} & {"utils", "common", "helpers", "misc"}


def test_planted_broad_excepts_are_found():
    assert broad_excepts("try:\n    pass\nexcept Exception:\n    pass") == ["Exception"]
    assert broad_excepts("try:\n    pass\nexcept:\n    pass") == ["everything"]
    assert broad_excepts("try:\n    pass\nexcept Exception:\n    tidy()\n    raise") == []
