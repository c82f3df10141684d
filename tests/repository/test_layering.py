"""Each room of autopeft imports only from the rooms before it, and parts never import each other."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import autopeft

PACKAGE = Path(autopeft.__file__).parent
# The order of the rooms, as CONTRIBUTING.md gives it.
ROOMS = (
    "errors records extension evidence budget store settings data model metrics methods adapters tasks"
    " sensitivity space train executors engine exports estimate report doctor pipeline api cli __main__"
).split()
PART_ROOMS = ("methods", "metrics", "tasks", "sensitivity", "executors", "exports")
FILES = sorted(PACKAGE.rglob("*.py"))
TORCHLESS = ("errors", "records", "extension", "evidence", "budget", "store", "settings", "data", "report")


def dotted(path):
    """`autopeft/methods/lora.py` -> ("autopeft", "methods", "lora"); an `__init__` keeps its name."""
    return ("autopeft", *path.relative_to(PACKAGE).with_suffix("").parts)


def imported(tree, module):
    """Dotted names that a file imports from autopeft; `from a import b` gives a.b, b a module or not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = list(module[: -node.level]) if node.level else []
            named = (node.module or "").split(".") if node.module else []
            yield from ([*start, *named, alias.name] for alias in node.names)


def faults(source, module):
    """What a file imports that it must not; imports in functions and for type checkers count too."""
    room = module[1]
    found = []
    for name in imported(ast.parse(source), module):
        target = name[1] if name[0] == "autopeft" and len(name) > 1 else None
        if target not in ROOMS or room == "__init__":
            continue
        if target != room and ROOMS.index(target) > ROOMS.index(room):
            found.append(f"{'.'.join(module)} imports {target}, a later room")
        is_part = len(name) > 2 and (PACKAGE / room / f"{name[2]}.py").is_file() and name[2][0] != "_"
        if target == room and room in PART_ROOMS and is_part:
            found.append(f"{'.'.join(module)} imports its sibling {name[2]}")
    return found


def test_every_room_of_the_package_is_in_the_order():
    names = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert names - {"__init__"} <= set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: ".".join(dotted(path)[1:]))
def test_file_imports_only_earlier_rooms_and_no_sibling_part(path):
    assert faults(path.read_text(encoding="utf-8"), dotted(path)) == []


@pytest.mark.parametrize(
    "line",
    [
        "from autopeft.train import Bench",
        "from autopeft import train",
        "import autopeft.train",
        "from ..train import Bench",
        "def f():\n    from autopeft import train",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from autopeft.train import Bench",
    ],
)
def test_planted_backward_import_is_found(line):
    assert faults(line, ("autopeft", "methods", "lora")) == [
        "autopeft.methods.lora imports train, a later room"
    ]


@pytest.mark.parametrize(
    "line", ["from autopeft.methods.ia3 import IA3", "from autopeft.methods import ia3", "from . import ia3"]
)
def test_planted_sibling_import_is_found(line):
    assert faults(line, ("autopeft", "methods", "lora")) == ["autopeft.methods.lora imports its sibling ia3"]


def test_imports_that_the_order_allows_are_no_faults():
    source = (
        "from autopeft.methods._targets import sites_pattern\nfrom autopeft.records import Site\nimport torch"
    )
    assert faults(source, ("autopeft", "methods", "lora")) == []
    assert faults("from autopeft.store.files import write_text", ("autopeft", "store", "plan")) == []


def modules_after_importing(names):
    code = f"import sys, {', '.join(names)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_rooms_that_plan_and_write_do_not_import_torch():
    assert "torch" not in modules_after_importing([f"autopeft.{room}" for room in TORCHLESS])


def test_the_probe_for_torch_sees_it_where_it_is_imported():
    assert "torch" in modules_after_importing(["autopeft.model.sites"])


@pytest.mark.parametrize("name", ["autopeft", "autopeft.cli"])
def test_package_and_command_line_start_without_torch_transformers_and_peft(name):
    loaded = modules_after_importing([name])
    assert not {"torch", "transformers", "peft", "optuna"}.intersection(loaded)
