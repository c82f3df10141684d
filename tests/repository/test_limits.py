"""The sizes that keep the code readable: package, folders, files, functions, records, vague names."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAX_FILE_LINES, MAX_BODY_LINES, MAX_PARAMETERS, MAX_FIELDS = 500, 60, 7, 12
# `SearchFacts` gathers all that the report says of the run; it is only read, never built by hand outside the
# commands. `RunSpec` nests its topics and needs no exemption.
# A PEFT method is all that is true of it: `PeftMethod` holds it and `Method` asks for it, name by name.
# `Preview` is the JSON object of a dry run, one key for each fact.
# `ResultFile` and `Trial` name the keys of their files, as `Preview` does, and `TrialRow` the columns of
# trials.csv.
WIDE_RECORDS = (
    *("SearchFacts", "Method", "PeftMethod", "Preview", "ResultFile", "Runs", "TrainingFacts", "Trial"),
    "TrialRow",
)
# `measure` makes a failed trial a value; a future carries whatever its function raised, as in the stdlib;
# the client of a tracker, and a library that reads a user's file, may raise anything.
BROAD_EXCEPTS = {
    ("errors.py", "Exception"),
    ("train/bench.py", "Exception"),
    ("commands/search.py", "Exception"),
    ("commands/tune.py", "Exception"),
    ("executors/serial.py", "BaseException"),
    ("run/trackers.py", "Exception"),
    ("extension/discovery.py", "Exception"),
}


# It may only fall, unless a capability is added: raise it with that commit.
# 2026-11-30: 88 lines spread a base model over several GPUs. 97 let commands start without the libraries of
# tables (47), say what serves a language model (20) and keep the texts that it wrote (30). 54 read tables of
# spreadsheets and guess a missing label column. 33 let `suggest` and `estimate` take the columns of rows
# and tell steps without a card, and let `try` refuse a file in place of a text.
# 48 refuse devices and pipes, keep the tracker of locks and the watch over a dead parent, note a base's
# generation config, refuse weights of another run, and name settings of the environment. 30 train a plan on
# all rows, 12 say which steps fit a time limit. 72 refuse parts of a run that are of another run, or edited.
# 36 read a column of 0 and 1 for each label, 15 step into folders of an archive, 10 let `predict` answer
# several questions with choices. 52 take arrays as scores, refuse tables in `predict`, and load, describe and
# push what `tune` trained. 22 read texts in folders of classes, 12 give a head its rate in lines for `peft`,
# 10 refuse an untrained head. 58 read calls of tools in ShareGPT files, estimate in float32, and pack texts
# in lines for TRL. 15 keep the rows of a search whole on a terminal of 60 columns.
# 5 give plans another rate in some layers. 4 read entities without seqeval, which old versions of pip cannot
# install. 2 name what a suggestion of all maps leaves out. 14 name the labels of timm models, and say what is
# wrong with folders of images. 34 let `suggest` and `estimate` tell steps of images, 21 name
# all broken images at once. 8 tell the time left where a phase begins, once the limits are applied.
# 39 use finished runs under a shorter deadline, keep what the machine broke off, and name the way on.
# 30 keep the caller's modes of torch, and scores of two versions of a metric apart, and refuse wrong types in
# `suggest`. 12 tell the time left with smaller budgets, several seeds and several workers.
MAX_PACKAGE_LINES = 35_836
MAX_FOLDER_FILES = 15
PARTS = {
    f"autopeft/{room}" for room in ("methods", "metrics", "tasks", "sensitivity", "exports")
}  # one file a part
MAX_JOINED_LINES = 300  # a file that one other file imports belongs into it, if both have no more lines
# Names that name nothing.
VAGUE = frozenset(
    "known given first left others chosen beside own told asked found before after rest some wanted".split()
)


def texts(folder):
    """Name -> text of the Python files of a folder."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


PACKAGE, TESTS = texts("autopeft"), texts("tests")


def nodes(source, *kinds):
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]


def functions(source):
    """All but typer commands, whose parameters are the flags."""
    definitions = nodes(source, ast.FunctionDef, ast.AsyncFunctionDef)
    return [
        node for node in definitions if not any(".command" in ast.unparse(d) for d in node.decorator_list)
    ]


def body_lines(function):
    """Lines from the first statement after the docstring to the last."""
    first, *others = function.body
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    if is_docstring and not others:
        return 0
    return function.end_lineno - (others[0] if is_docstring else first).lineno + 1


def n_parameters(function):
    every = function.args
    names = [
        a.arg for a in (*every.posonlyargs, *every.args, *every.kwonlyargs, every.vararg, every.kwarg) if a
    ]
    return len([name for name in names if name not in ("self", "cls")])


def n_fields(record):
    names = [node.target.id for node in record.body if isinstance(node, ast.AnnAssign)]
    return len([name for name in names if name[0] != "_"])


def broad_excepts(source):
    """What is caught whole and kept; a handler that ends in a bare `raise` only tidies up."""
    handlers = [h for h in nodes(source, ast.ExceptHandler) if ast.unparse(h.body[-1]) != "raise"]
    caught = [ast.unparse(handler.type) if handler.type else "everything" for handler in handlers]
    return [name for name in caught if name in ("Exception", "BaseException", "everything")]


def too_large(files, kind, size, limit):
    """`file::name` -> size, of the functions or classes that are larger than they may be."""
    sizes = {f"{name}::{node.name}": size(node) for name, text in files.items() for node in kind(text)}
    return {name: n for name, n in sizes.items() if n > limit}


def test_files_have_at_most_500_lines():
    lengths = {name: len(text.splitlines()) for name, text in {**PACKAGE, **TESTS}.items()}
    assert {name: n for name, n in lengths.items() if n > MAX_FILE_LINES} == {}


def test_the_package_does_not_grow():
    assert sum(len(text.splitlines()) for text in PACKAGE.values()) <= MAX_PACKAGE_LINES


def test_folders_have_at_most_15_files():
    n_files = Counter(str(Path(name).parent) for name in PACKAGE)
    assert {name: n for name, n in n_files.items() if n > MAX_FOLDER_FILES and name not in PARTS} == {}


def importers(files):
    """File -> the files that import from it; an `__init__` hands it to other rooms."""
    found = {name: set() for name in files}
    for importer, text in files.items():
        for node in nodes(text, ast.ImportFrom):
            target = f"{(node.module or '').replace('.', '/')}.py"
            if target in found:
                found[target].add(importer)
    return found


def joinable(files):
    """File -> the only file of its folder that imports it, if both together are short."""
    n_lines = {name: len(text.splitlines()) for name, text in files.items()}
    single = {name: next(iter(users)) for name, users in importers(files).items() if len(users) == 1}
    return {
        name: user
        for name, user in single.items()
        if Path(name).parent == Path(user).parent
        and Path(user).name != "__init__.py"
        and n_lines[name] + n_lines[user] <= MAX_JOINED_LINES
    }


def test_a_short_file_that_one_other_file_imports_is_part_of_that_file():
    assert joinable(PACKAGE) == {}


def vague_names(source):
    """Variables and parameters whose names name nothing; keys of a file are fields of a class."""
    found = nodes(source, ast.AnnAssign, ast.Name)
    fields = {id(node.target) for node in found if isinstance(node, ast.AnnAssign)}
    stored = [node for node in found if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    names = [node.id for node in stored if id(node) not in fields]
    return sorted({*names, *(node.arg for node in nodes(source, ast.arg))} & VAGUE)


def test_names_name_something():
    assert {name: found for name, text in PACKAGE.items() if (found := vague_names(text))} == {}


def test_function_bodies_have_at_most_60_lines():
    assert too_large({**PACKAGE, **TESTS}, functions, body_lines, MAX_BODY_LINES) == {}


def test_functions_take_at_most_7_parameters():
    assert too_large(PACKAGE, functions, n_parameters, MAX_PARAMETERS) == {}


def test_records_have_at_most_12_fields_but_for_those_that_are_wide():
    wide = too_large(PACKAGE, lambda text: nodes(text, ast.ClassDef), n_fields, MAX_FIELDS)
    assert {name.split("::")[1] for name in wide} == set(WIDE_RECORDS)


def test_broad_excepts_are_where_a_comment_says_why():
    found = {(name, caught) for name, text in PACKAGE.items() for caught in broad_excepts(text)}
    assert found == {(f"autopeft/{name}", caught) for name, caught in BROAD_EXCEPTS}


def test_no_file_is_a_drawer_for_odds_and_ends():
    assert not {Path(name).stem.strip("_") for name in PACKAGE} & {"utils", "common", "helpers", "misc"}


def test_the_measures_see_what_is_too_large():
    wide = f"def f({', '.join('abcdefgh')}):\n    '''Doc.'''\n" + "    x = 1\n" * 61
    (function,) = functions(wide)
    assert (n_parameters(function), body_lines(function)) == (8, 61)
    assert broad_excepts("try:\n    pass\nexcept Exception:\n    pass") == ["Exception"]
    assert broad_excepts("try:\n    pass\nexcept:\n    pass") == ["everything"]
    assert broad_excepts("try:\n    pass\nexcept Exception:\n    tidy()\n    raise") == []
    assert vague_names("known = 1\ndef f(first):\n    names = known") == ["first", "known"]
    short = {"a/b.py": "from a.c import d", "a/c.py": "d = 1", "a/__init__.py": "from a.b import d"}
    assert joinable(short) == {"a/c.py": "a/b.py"}
    assert n_fields(ast.parse("class A:\n    x: int\n    y: int = 1\n    _z: int").body[0]) == 2
