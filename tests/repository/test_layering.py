"""Each package of autopeft imports only from those before it, and plug-ins never import each other."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import autopeft

ROOT = Path(autopeft.__file__).parent
CONTRIBUTING = (ROOT.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
(_ORDER,) = re.findall(r"^(errors → .*?)\n\n", CONTRIBUTING, re.MULTILINE | re.DOTALL)
PACKAGES = [*re.findall(r"\w+", _ORDER), "__main__"]
WITH_PLUGINS = ("methods", "metrics", "tasks", "sensitivity", "exports")
WITHOUT_TORCH = ("errors", "types", "plugins", "statistics", "budget", "store", "data", "space", "report")


def dotted(path):
    """`autopeft/methods/lora.py` -> ("autopeft", "methods", "lora"); an `__init__` keeps its name."""
    return ("autopeft", *path.relative_to(ROOT).with_suffix("").parts)


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
    package = module[1]
    wrong = []
    for name in imported(ast.parse(source), module):
        target = name[1] if name[0] == "autopeft" and len(name) > 1 else None
        if target not in PACKAGES or package == "__init__":
            continue
        if target != package and PACKAGES.index(target) > PACKAGES.index(package):
            wrong.append(f"{'.'.join(module)} imports {target}, a later package")
        is_plugin = len(name) > 2 and (ROOT / package / f"{name[2]}.py").is_file() and name[2][0] != "_"
        if target == package and package in WITH_PLUGINS and is_plugin:
            wrong.append(f"{'.'.join(module)} imports its sibling {name[2]}")
    return wrong


def test_contributing_gives_the_order_of_all_packages():
    names = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert names - {"__init__"} == set(PACKAGES)


def test_files_import_only_earlier_packages_and_no_sibling_plugin():
    files = sorted(ROOT.rglob("*.py"))
    assert [fault for path in files for fault in faults(path.read_text(encoding="utf-8"), dotted(path))] == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("from autopeft.train import Bench", "imports train"),
        ("def f():\n    from autopeft import train", "imports train"),
        ("from . import ia3", "sibling ia3"),
    ],
)
def test_planted_imports_are_found(line, words):
    (fault,) = faults(line, ("autopeft", "methods", "lora"))
    assert words in fault


def modules_after_importing(names):
    code = f"import sys, {', '.join(names)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_packages_that_plan_and_write_do_not_import_torch():
    names = [f"autopeft.{package}" for package in WITHOUT_TORCH]
    loaded = modules_after_importing(names)
    assert "torch" not in loaded and set(loaded) >= set(names)


def test_package_and_command_line_start_without_torch_transformers_and_peft():
    loaded = modules_after_importing(["autopeft", "autopeft.cli"])
    assert not {"torch", "transformers", "peft", "optuna"}.intersection(loaded)


def test_commands_that_read_no_rows_start_without_libraries_of_tables():
    loaded = modules_after_importing(["autopeft.commands.suggest", "autopeft.tasks.token_classification"])
    assert not {"pandas", "datasets", "sklearn", "sqlalchemy", "scipy.stats"}.intersection(loaded)
