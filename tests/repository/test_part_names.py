"""No file names a part of another folder: a plug-in's part is served as those of the package are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import autopeft
from autopeft.plugins import discover

PACKAGE = Path(autopeft.__file__).parent
FOLDERS = ("methods", "metrics", "tasks", "sensitivity", "exports")
FOLDERS_OF: dict[str, set[str]] = {}  # name of a part -> folders that have a part of this name
for _folder in FOLDERS:
    for _name in discover(f"autopeft.{_folder}"):
        FOLDERS_OF.setdefault(_name, set()).add(_folder)
MODULE = re.compile(rf"\bautopeft\.(?:{'|'.join(FOLDERS)})\.(\w+)")  # `autopeft.methods.lora` inside a text

# (file or folder, names, why they may stand there). A second test finds entries that are not needed any more.
ALLOWED = (
    ("records/spec.py", "text-classification gradient", "defaults of settings have to name a part"),
    ("api/__init__.py", "gradient fisher", "the default of an argument has to name parts"),
    ("records/outcomes.py", "parameters", "the score of target modules where memory holds no example"),
    ("cli/", "parameters", "the heading of a column"),
    ("run/progress.py", "parameters", "the heading of a column"),
    ("templates/", "parameters", "the heading of a column"),
    ("templates/sentences.j2", "lora merged uniform-lora", "what servers load"),
    ("space/spaces.py", "lora", "what people write without a search"),
    ("run/search_problem.py", "gradient fisher", "scores that every report shows beside the chosen one"),
    ("run/defaults.py", "exact-match", "what is offered where completions are short"),
    ("cli/results.py", "image-classification", "the example of `try` is a file there"),
    ("exports/", "lora", "a word of axolotl's and LLaMA-Factory's files"),
    ("tasks/", "exact-match", "a metric of written answers, which their tasks compute themselves"),
)


def literals(source):
    """Line and text of the string literals of a Python file, docstrings apart."""
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def quoted(template):
    """Line and text of the quoted words of a template; an attribute of HTML is no literal."""
    for number, line in enumerate(template.splitlines(), 1):
        for match in re.finditer(r"""(?<!=)(["'])([\w-]+)\1""", line):
            yield number, match[2]


def part_names(texts, folder):
    """(line, name) where one of the texts is the name of a part of another folder, or of its module."""
    for line, text in texts:
        for name in (text, *MODULE.findall(text)):
            if name in FOLDERS_OF and folder not in FOLDERS_OF[name]:
                yield line, name


def named_in(path):
    """(line, name) of the parts of other folders that a file names."""
    read = literals if path.suffix == ".py" else quoted
    return list(
        part_names(
            read(path.read_text(encoding="utf-8")), path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        )
    )


def covers(entry, place, name):
    where, names, _ = entry
    return place.startswith(where) and name in names.split()


FILES = [path for path in sorted(PACKAGE.rglob("*")) if path.suffix in (".py", ".j2")]
NAMED = [
    (path.relative_to(PACKAGE).as_posix(), line, name) for path in FILES for line, name in named_in(path)
]


def test_no_file_names_a_part_of_another_folder():
    assert [
        f"autopeft/{place}:{line} names {name!r}"
        for place, line, name in NAMED
        if not any(covers(entry, place, name) for entry in ALLOWED)
    ] == []


def test_every_exception_is_needed():
    needless = [
        (where, name)
        for where, names, why in ALLOWED
        for name in names.split()
        if not any(covers((where, name, why), place, seen) for place, _, seen in NAMED)
    ]
    assert needless == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ('WORDS = {"bitfit": "biases"}', "bitfit"),
        ('def f(task):\n    """Doc."""\n    return task.name == "text-generation"', "text-generation"),
        ("match = f\"{x} in {table['uniform-lora']}\"", "uniform-lora"),
        ('hint = "first import autopeft.methods.bitfit"', "bitfit"),
    ],
)
def test_planted_name_is_found(source, name):
    assert [seen for _, seen in part_names(literals(source), "report")] == [name]


def test_planted_name_in_a_template_is_found():
    template = "{% if task == 'text-generation' %}<b class=\"gradient\">{% endif %}"
    assert list(part_names(quoted(template), "templates")) == [(1, "text-generation")]


@pytest.mark.parametrize(
    ("source", "folder"),
    [
        ('PLUGIN = PeftMethod(name="lora")', "methods"),
        ('"""lora"""', "report"),
        ('def f():\n    "lora"', "report"),
        ('hint = "LoRA is what lora and loha have in common"', "report"),
        ("lora = 1", "report"),
    ],
)
def test_what_is_no_name_of_another_folders_part_is_left_alone(source, folder):
    assert list(part_names(literals(source), folder)) == []
