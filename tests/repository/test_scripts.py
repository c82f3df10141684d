"""Scripts still import what they use, and their docstrings show how to run them."""

from __future__ import annotations

import ast
import doctest
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("benchmarks", "tools")
FILES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
)


EXPLAINED = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if ">>>" in path.read_text(encoding="utf-8")
)


def imported(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"study_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    monkeypatch.syspath_prepend(path.parent)  # as Python does for a script
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", EXPLAINED, ids=lambda path: path.stem)
def test_examples_of_script_are_right(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = doctest.testmod(imported(path, monkeypatch))
    assert results.attempted and not results.failed


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_script_imports_and_shows_how_to_run_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported(path, monkeypatch)
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert f"python {path.relative_to(ROOT).as_posix()}" in docstring
