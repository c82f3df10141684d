"""Change one thing in the code at a time, and list the changes that the tests do not notice.

    python tools/mutants.py OUT.csv [--packages engine statistics budget adapters] [--n 100] [--seed 0]

A mutant swaps an operator, a comparison, a constant, `min` and `max` or `any` and `all`, negates a condition,
or leaves a statement out; messages and logs stay as they are. `coverage` finds the tests
that run each line, once, and OUT.json keeps them. Then all tests are collected once. Each mutant is a fork in
which a module is changed, and which runs the tests of its line until one fails: those of its package first,
quick ones before slow ones, as many as --seconds allows. Processes that tests start are not changed. A row
has file, line, both texts, the outcome (killed, survived, or hangs), seconds, how many of how many tests were
to run, and the test that failed. The same command continues where it was stopped.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import csv
import importlib
import itertools
import json
import os
import random
import resource
import signal
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coverage
import pytest

PACKAGES = ("engine", "statistics", "budget", "adapters")
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
    """Yield the nodes that may be changed: no annotations, messages, decorators or logs."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list", "type_comment"):
            continue
        for node in value if isinstance(value, list) else [value]:
            is_log = isinstance(node, ast.Expr) and ast.unparse(node).startswith("log.")
            if isinstance(node, ast.AST) and not isinstance(node, SKIPPED) and not is_log:
                yield node
                yield from places(node)


def mutants(node: Any) -> Iterator[str]:
    """Yield the texts that may replace a node."""
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


def drawn(packages: list[str], n: int, seed: int) -> list[tuple[str, str, str, Any, str]]:
    """Draw mutants: package, file, its source, node and its new text."""
    every = []
    for package in packages:
        for path in sorted(Path("autopeft", package).glob("*.py")) or [Path("autopeft", f"{package}.py")]:
            source = path.read_text(encoding="utf-8")
            nodes = places(ast.parse(source))
            every += [(package, str(path), source, node, text) for node in nodes for text in mutants(node)]
    return random.Random(seed).sample(every, min(n, len(every)))


def replaced(source: str, node: Any, text: str) -> str:
    """Return the source with a text instead of a node."""
    lines = source.encode().splitlines(keepends=True)
    start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
    end = sum(map(len, lines[: node.end_lineno - 1])) + node.end_col_offset
    content = source.encode()
    return (content[:start] + text.encode() + content[end:]).decode()


def put_in_place(name: str, source: str) -> None:
    """Replace the functions and constants of an imported module by those of a changed source."""
    module = importlib.import_module(name)
    changed = types.ModuleType(name)
    sys.modules[name] = changed  # dataclasses look their module up
    try:
        exec(compile(source, str(module.__file__), "exec"), changed.__dict__)
    finally:
        sys.modules[name] = module
    replace_in(module, changed, name)


def replace_in(old: object, new: object, name: str) -> None:
    """Replace what differs in a module or class by what a changed one defines, but keep the objects."""
    for key, value in list(vars(new).items()):
        current = vars(old).get(key)
        before, after = (
            getattr(each, "fget", getattr(each, "__wrapped__", each)) for each in (current, value)
        )
        if isinstance(after, types.FunctionType) and isinstance(before, types.FunctionType):
            if after.__module__ == name and after.__code__ != before.__code__:
                before.__code__ = after.__code__
            if after.__module__ == name and repr(after.__defaults__) != repr(before.__defaults__):
                before.__defaults__ = after.__defaults__
            if after.__module__ == name and repr(after.__kwdefaults__) != repr(before.__kwdefaults__):
                before.__kwdefaults__ = after.__kwdefaults__
        elif isinstance(value, type) and value.__module__ == name and isinstance(current, type):
            replace_in(current, value, name)
        elif isinstance(old, types.ModuleType) and not key.startswith("__") and repr(value) != repr(current):
            for module in list(sys.modules.values()):  # that may have imported the constant
                if vars(module).get(key) is current:
                    setattr(module, key, value)


class Lines:
    """A plugin of pytest: notes which tests run each line of the packages, and how long each test takes."""

    def __init__(self, path: Path) -> None:
        """Start coverage."""
        self.path, self.contexts, self.tests = path, [""], {}
        packages = [f"autopeft/{package}{ending}" for package in PACKAGES for ending in (".py", "/*")]
        self.coverage = coverage.Coverage(data_file=None, config_file=False, include=packages)
        self.coverage.start()

    @contextlib.contextmanager
    def _within(self, context: str) -> Iterator[None]:
        self.contexts.append(context)
        self.coverage.switch_context(context)
        yield
        self.contexts.pop()
        self.coverage.switch_context(self.contexts[-1])

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        """Count the lines that a shared fixture runs for every test that uses it."""
        context = self.contexts[-1] if fixturedef.scope == "function" else fixturedef.argname
        with self._within(context):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
        """Count the lines that a test runs, and its seconds."""
        started = time.process_time()
        with self._within(item.nodeid):
            result = yield
        self.tests[item.nodeid] = time.process_time() - started, item.fixturenames
        return result

    def pytest_sessionfinish(self) -> None:
        """Write the map."""
        self.coverage.stop()
        found = self.coverage.get_data()
        lines = {os.path.relpath(path): found.contexts_by_lineno(path) for path in found.measured_files()}
        self.path.write_text(json.dumps({"tests": self.tests, "lines": lines}), encoding="utf-8")


def tests_of(package: str, path: str, node: Any, notes: dict[str, Any]) -> list[str]:
    """Return the tests that run a node's lines, or any of its file if it runs at import; best first."""
    by_line, tests = notes["lines"].get(path, {}), notes["tests"]
    contexts = {c for n in range(node.lineno, node.end_lineno + 1) for c in by_line.get(str(n), ())}
    if contexts <= {""}:
        contexts = {context for each in by_line.values() for context in each} if contexts else set()
    chosen = [test for test, (_, fixtures) in tests.items() if test in contexts or contexts & set(fixtures)]
    return sorted(chosen, key=lambda test: (package not in test.split("::")[0], tests[test][0]))


class Server:
    """A plugin of pytest: when all tests are collected, each mutant runs its tests in a fork."""

    def __init__(self, arguments: argparse.Namespace, map_file: Path) -> None:
        """Read the map."""
        self.arguments, self.notes = arguments, json.loads(map_file.read_text(encoding="utf-8"))
        self.failed = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note the test that fails."""
        self.failed = self.failed or (report.nodeid if report.failed else "")

    def pytest_runtestloop(self, session: Any) -> bool:
        """Write a row for each mutant as soon as it is known."""
        arguments, items = self.arguments, {item.nodeid: item for item in session.items}
        done = len(arguments.out.read_text(encoding="utf-8").splitlines()) if arguments.out.exists() else 0
        with arguments.out.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            every = drawn(arguments.packages, arguments.n, arguments.seed)
            for package, path, source, node, text in every[done:]:
                tests = [test for test in tests_of(package, path, node, self.notes) if test in items]
                n_tests, started = len(tests), time.monotonic()
                while sum(self.notes["tests"][test][0] for test in tests) > arguments.seconds:
                    tests.pop()
                name = path.removesuffix(".py").replace("/", ".")
                result, killer = self.outcome(
                    [items[test] for test in tests], name, replaced(source, node, text)
                )
                seconds = round(time.monotonic() - started)
                row = (path, node.lineno, " ".join(ast.unparse(node).split()), text, result, seconds)
                writer.writerow((*row, f"{len(tests)} of {n_tests}", killer))
                stream.flush()
        return True

    def outcome(self, items: list[Any], name: str, source: str) -> tuple[str, str]:
        """Run tests in a fork of this process, in which a module has another source."""
        receiver, sender = os.pipe()
        child = os.fork()
        if child == 0:
            os.setpgrp()
            limit = int(10 + 2 * self.arguments.seconds)
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            signal.alarm(10 * limit)  # a mutant may wait for ever
            try:
                put_in_place(name, source)
                for item, following in itertools.zip_longest(items, items[1:]):
                    if not self.failed:
                        item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
            except BaseException as error:  # a mutant may fail as soon as it is imported
                self.failed = repr(error)
            os.write(sender, self.failed.encode())
            os._exit(bool(self.failed))
        os.close(sender)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what its tests started
        return ("hangs" if code < 0 else "killed" if code else "survived"), os.read(receiver, 4096).decode()


def main() -> None:
    """Make the map if there is none, and try the mutants."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--packages", nargs="*", default=PACKAGES, choices=PACKAGES)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tests", nargs="*", default=["tests", "autopeft"])
    arguments = parser.parse_args()
    map_file, options = arguments.out.with_suffix(".json"), ["-q", "-n0", "-p", "no:cacheprovider"]
    if not map_file.exists():
        child = os.fork()
        if child == 0:
            os._exit(pytest.main(["-x", *options, *arguments.tests], [Lines(map_file.absolute())]))
        assert os.waitpid(child, 0)[1] == 0, "the tests fail without a change"
    pytest.main([*options, "-s", *arguments.tests], [Server(arguments, map_file)])


if __name__ == "__main__":
    main()
