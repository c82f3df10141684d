"""Each room of autopeft imports only from the rooms before it, and parts never import each other."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import autopeft

PACKAGE = Path(autopeft.__file__).parent
# The order of the rooms, as CONTRIBUTING.md gives it.
ROOMS = (
    "errors containers records extension evidence budget store data model metrics methods adapters"
    " tasks sensitivity space train executors engine exports estimate report client run commands api cli"
    " __main__"
).split()
PART_ROOMS = ("methods", "metrics", "tasks", "sensitivity", "exports")
FILES = sorted(PACKAGE.rglob("*.py"))
TORCHLESS = (
    "errors",
    "types",
    "plugins",
    "statistics",
    "budget",
    "store",
    "data",
    "space",
    "report",
)


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
    wrong = []
    for name in imported(ast.parse(source), module):
        target = name[1] if name[0] == "autopeft" and len(name) > 1 else None
        if target not in ROOMS or room == "__init__":
            continue
        if target != room and ROOMS.index(target) > ROOMS.index(room):
            wrong.append(f"{'.'.join(module)} imports {target}, a later room")
        is_part = len(name) > 2 and (PACKAGE / room / f"{name[2]}.py").is_file() and name[2][0] != "_"
        if target == room and room in PART_ROOMS and is_part:
            wrong.append(f"{'.'.join(module)} imports its sibling {name[2]}")
    return wrong


def test_every_room_of_the_package_is_in_the_order():
    names = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert names - {"__init__"} <= set(ROOMS)


def test_files_import_only_earlier_rooms_and_no_sibling_part():
    assert [fault for path in FILES for fault in faults(path.read_text(encoding="utf-8"), dotted(path))] == []


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
    imports = ("autopeft.methods._shared import targets_pattern", "autopeft.types import Target")
    source = "\n".join([*(f"from {each}" for each in imports), "import torch"])
    assert faults(source, ("autopeft", "methods", "lora")) == []
    assert faults("from autopeft.store.files import write_text", ("autopeft", "store", "plan")) == []


# The sentence in a folder's docstring that promises the order of its files.
ORDER_SENTENCE = re.compile(r"Inside the folder each file imports only from those before it: ?(.*?)\.(?: |$)")
FOLDERS = sorted({path.parent for path in FILES} - {PACKAGE} - {PACKAGE / room for room in PART_ROOMS})


def promised_order(docstring):
    """File name -> its place in the order that a docstring promises; None where it promises none.

    In `a → b, c → d` the files b and c share a place: neither may import the other.
    """
    sentence = ORDER_SENTENCE.search(" ".join(docstring.split()))
    if sentence is None:
        return None
    places = enumerate(sentence[1].split(" → "))
    return {name.strip("` "): place for place, names in places for name in names.split(",")}


def imports_inside(sources, folder):
    """(file, file that it imports) for the files of one folder; `__init__` may import all of them."""
    for stem, source in sources.items():
        names = imported(ast.parse(source), (*folder, stem)) if stem != "__init__" else ()
        for name in names:
            if tuple(name[: len(folder)]) == folder and name[len(folder) :][:1] != [stem]:
                yield stem, next((part for part in name[len(folder) :][:1] if part in sources), "__init__")


def order_faults(sources, folder):
    """What is wrong with the order of a folder's files; `sources` maps file or sub-folder to its text."""
    order = promised_order(ast.get_docstring(ast.parse(sources["__init__"])) or "")
    pairs = sorted(set(imports_inside(sources, folder)))
    if order is None:
        return [f"the docstring of {'.'.join(folder)} lacks 'Inside the folder …: a → b.'"] if pairs else []
    differing = sorted({*sources, "__init__"} ^ {*order, "__init__"})
    faults = [f"{name} is a file or in the promised order, not both" for name in differing]
    order = {"__init__": len(order), **order}
    known = [(a, b) for a, b in pairs if {a, b} <= order.keys()]
    return faults + [f"{a} imports {b}, which is not before it" for a, b in known if order[b] >= order[a]]


def sources_of(folder):
    """The text of each file of a folder, and all files of each sub-folder as one text, by name."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))}
    for path in sorted(folder.glob("*/**/*.py")):
        name = path.relative_to(folder).parts[0]
        texts[name] = f"{texts.get(name, '')}\n{path.read_text(encoding='utf-8')}"
    return texts


def test_files_of_a_folder_import_each_other_in_the_order_that_its_docstring_promises():
    names = {folder: ("autopeft", *folder.relative_to(PACKAGE).parts) for folder in FOLDERS}
    faults = {".".join(name): order_faults(sources_of(folder), name) for folder, name in names.items()}
    assert {folder: found for folder, found in faults.items() if found} == {}


PROMISE = (
    '"""Inside the folder each file imports only from those before it:\nfirst → middle, beside → last."""'
)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("from autopeft.room.last import end", ["middle imports last, which is not before it"]),
        ("def f():\n    from .beside import end", ["middle imports beside, which is not before it"]),
        ("from autopeft.room import end", ["middle imports __init__, which is not before it"]),
        ("from autopeft.room.first import begin", []),
    ],
)
def test_planted_import_against_the_promised_order_is_found(line, fault):
    texts = {"first": "", "middle": line, "beside": "", "last": "import autopeft.room.middle"}
    assert order_faults({"__init__": PROMISE, **texts}, ("autopeft", "room")) == fault


def test_order_must_name_every_file_and_stand_wherever_files_import_each_other():
    importing = {"a": "", "b": "from autopeft.room import a"}
    (fault,) = order_faults({"__init__": '"""A room."""', **importing}, ("autopeft", "room"))
    assert "docstring of autopeft.room lacks" in fault
    promise = '"""Inside the folder each file imports only from those before it: a → c."""'
    faults = order_faults({"__init__": promise, **importing}, ("autopeft", "room"))
    assert faults == [f"{name} is a file or in the promised order, not both" for name in "bc"]


def modules_after_importing(names):
    code = f"import sys, {', '.join(names)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_rooms_that_plan_and_write_do_not_import_torch():
    rooms = [f"autopeft.{room}" for room in TORCHLESS]
    loaded = modules_after_importing(rooms)
    assert "torch" not in loaded and set(loaded) >= set(rooms)


def test_package_and_command_line_start_without_torch_transformers_and_peft():
    loaded = modules_after_importing(["autopeft", "autopeft.cli"])
    assert not {"torch", "transformers", "peft", "optuna"}.intersection(loaded)


def test_commands_that_read_no_rows_start_without_libraries_of_tables():
    loaded = modules_after_importing(["autopeft.commands.suggest", "autopeft.tasks.token_classification"])
    assert not {"pandas", "datasets", "sklearn", "sqlalchemy", "scipy.stats"}.intersection(loaded)
