"""Change one thing in the code at a time, and list the changes that the tests of its room do not notice.

    python scripts/mutants.py OUT.csv [--rooms engine evidence budget adapters] [--n 100] [--seed 0]

A mutant swaps an operator, a comparison, a constant, `min` and `max` or `any` and `all`, negates a condition,
or leaves a statement out; messages and logs stay as they are. The room's tests and examples run with `-x` in
a fork of this process whose module is changed; other processes that they start are not. A row has file, line,
both texts and the outcome: killed, survived, or hangs.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import csv
import importlib
import os
import random
import resource
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TESTS = {
    "engine": ["autopeft/engine", "tests/engine"],
    "evidence": ["autopeft/evidence", "tests/evidence"],
    "budget": ["autopeft/budget.py", "tests/test_budget.py", "tests/test_budget_allocation.py"],
    "adapters": ["autopeft/adapters", "tests/adapters"],
}
SECONDS = 300  # of processor time, after which the tests of a mutant count as hanging
SWAPPED: dict[type, Any] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil", "ceil": "floor"}
SKIPPED = (ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Raise)  # messages, and what fails at import


def places(tree: ast.AST) -> Iterator[Any]:
    """The nodes that may be changed: no annotations, messages, decorators or logs."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list", "type_comment"):
            continue
        for node in value if isinstance(value, list) else [value]:
            is_log = isinstance(node, ast.Expr) and ast.unparse(node).startswith("log.")
            if isinstance(node, ast.AST) and not isinstance(node, SKIPPED) and not is_log:
                yield node
                yield from places(node)


def mutants(node: Any) -> Iterator[str]:
    """The texts that may stand in a node's place."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        swapped = ast.Compare(node.left, [SWAPPED[type(node.ops[0])]()], node.comparators)
        yield f"({ast.unparse(swapped)})"
    elif isinstance(node, ast.BinOp) and type(node.op) in SWAPPED:
        yield f"({ast.unparse(ast.BinOp(node.left, SWAPPED[type(node.op)](), node.right))})"
    elif isinstance(node, ast.BoolOp):
        yield f"({ast.unparse(ast.BoolOp(SWAPPED[type(node.op)](), node.values))})"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield f"({ast.unparse(node.operand)})"
    elif isinstance(node, ast.Constant) and type(node.value) in (bool, int, float):
        value: Any = node.value
        yield repr(
            not value
            if isinstance(value, bool)
            else value + 1
            if isinstance(value, int)
            else value * 1.5 or 1.0
        )
    elif isinstance(node, ast.Name) and node.id in NAMES:
        yield NAMES[node.id]
    elif isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield f"{ast.unparse(node.value)}.{NAMES[node.attr]}"
    elif isinstance(node, ast.IfExp):
        yield f"({ast.unparse(ast.IfExp(node.test, node.orelse, node.body))})"
    elif isinstance(node, ast.AugAssign | ast.Continue | ast.Delete | ast.Expr):
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        yield from () if is_docstring else ("pass",)


def drawn(rooms: list[str], n: int, seed: int) -> list[tuple[str, str, str, Any, str]]:
    """Some mutants at random: room, file, its source, node and its new text."""
    every = []
    for room in rooms:
        found = sorted(Path("autopeft", room).glob("*.py")) or [Path("autopeft", f"{room}.py")]
        for path in found:
            source = path.read_text(encoding="utf-8")  # at once, since the files may change meanwhile
            nodes = places(ast.parse(source))
            every += [(room, str(path), source, node, text) for node in nodes for text in mutants(node)]
    return random.Random(seed).sample(every, min(n, len(every)))


def replaced(source: str, node: Any, text: str) -> str:
    """The source with a text in a node's place."""
    lines = source.encode().splitlines(keepends=True)
    start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
    end = sum(map(len, lines[: node.end_lineno - 1])) + node.end_col_offset
    content = source.encode()
    return (content[:start] + text.encode() + content[end:]).decode()


def put_in_place(name: str, source: str) -> None:
    """Give the functions and constants of a module that is imported those of a changed source."""
    module = importlib.import_module(name)
    changed = types.ModuleType(name)
    sys.modules[name] = changed  # dataclasses look their module up
    try:
        exec(compile(source, str(module.__file__), "exec"), changed.__dict__)
    finally:
        sys.modules[name] = module
    replace_in(module, changed, name)


def replace_in(old: object, new: object, name: str) -> None:
    """Replace what a module or class defines by what a changed one does, but keep the objects."""
    for key, value in list(vars(new).items()):
        current = vars(old).get(key)
        before, after = (
            getattr(each, "fget", getattr(each, "__wrapped__", each)) for each in (current, value)
        )
        if isinstance(after, types.FunctionType) and isinstance(before, types.FunctionType):
            if after.__module__ == name:
                before.__code__, before.__defaults__ = after.__code__, after.__defaults__
                before.__kwdefaults__ = after.__kwdefaults__
        elif isinstance(value, type) and value.__module__ == name and isinstance(current, type):
            replace_in(current, value, name)
        elif isinstance(old, types.ModuleType) and not callable(value) and not key.startswith("__"):
            setattr(old, key, value)


def outcome(paths: list[str], name: str = "", source: str = "") -> str:
    """Run tests in a fork of this process, in which a module has another source."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        code = 1
        with contextlib.suppress(Exception):  # a mutant may fail as soon as it is imported
            if name:
                put_in_place(name, source)
            code = int(pytest.main(["-x", "-q", "-n0", "-p", "no:cacheprovider", *paths]))
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return "survived" if code == 0 else "hangs" if code < 0 else "killed"


def main() -> None:
    """Draw mutants, run the tests on each, and write a row as soon as it is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--rooms", nargs="*", default=list(TESTS), choices=TESTS)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    importlib.import_module("autopeft.cli.results")  # once, for all forks
    importlib.import_module("autopeft.commands")
    for room in arguments.rooms:
        assert outcome(TESTS[room]) == "survived", f"the tests of {room} fail without a change"
    with arguments.out.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("file", "line", "before", "after", "outcome", "seconds"))
        for room, path, source, node, text in drawn(arguments.rooms, arguments.n, arguments.seed):
            started = time.monotonic()
            name = path.removesuffix(".py").replace("/", ".")
            found = outcome(TESTS[room], name, replaced(source, node, text))
            seconds = round(time.monotonic() - started)
            writer.writerow((path, node.lineno, ast.unparse(node), text, found, seconds))
            stream.flush()


if __name__ == "__main__":
    main()
