"""Commands in pages and docstrings exist, with their flags: those of `autopeft` and of scripts."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import typer.main
from test_docs import PAGES, ROOT, blocks

from autopeft.cli.app import app
from autopeft.cli.info import SKILL

FOLDERS = ("benchmarks", "examples", "tools")
SCRIPTS = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("[!_]*.py"))]
REPORTS = [path for folder in (*FOLDERS, "research") for path in sorted((ROOT / folder).rglob("*.md"))]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PROSE = dict.fromkeys([*PAGES, ROOT / "CONTRIBUTING.md", SKILL, *REPORTS])
TEXTS = [*PROSE, *WORKFLOWS, *SCRIPTS]
_SCRIPT = r"python ((?:benchmarks|examples|tests|tools)/[\w/]+\.py)((?:[^`\n]|\n +(?=\[|--))*)"


def text_of(path: Path) -> str:
    """A page, or the docstring of a script."""
    text = path.read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(text)) or "" if path.suffix == ".py" else text


def commands_of(text: str) -> list[list[str]]:
    """The `autopeft` commands in blocks of shell, indented blocks, code spans and workflows, as words."""
    shell = "\n".join(blocks(text, "bash")).replace("\\\n", " ")
    lines = [line.removeprefix("$ ") for line in shell.splitlines()]
    inline = re.findall(r"`(autopeft [a-z][^`]*)`|^(?:    | *- run: )(autopeft [a-z].*)$", text, re.MULTILINE)
    lines += [first or second for first, second in inline]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("autopeft ")]


def unknown_flags(words: list[str]) -> list[str]:
    """Return the flags of a command line that the command does not have."""
    command, rest = typer.main.get_command(app), words[1:]
    while hasattr(command, "commands") and rest and rest[0][0] != "-":  # a group, such as `info`
        if rest[0] not in command.commands:
            return rest[:1]
        command, rest = command.commands[rest[0]], rest[1:]
    known = {flag for parameter in command.params for flag in parameter.opts} | {"--help", "-h"}
    end = rest.index("--") if "--" in rest else len(rest)  # the command of a user follows
    given = [word.partition("=")[0] for word in rest[:end] if re.match(r"--?[a-z]", word)]
    return [flag for flag in given if flag not in known]


def unknown_to_scripts(text: str) -> list[str]:
    """Return scripts that do not exist, and flags that a script and its imports do not have."""
    unknown = []
    for name, given in re.findall(_SCRIPT, text):
        script = ROOT / name
        if not script.exists():
            unknown.append(name)
            continue
        code = script.read_text(encoding="utf-8")
        siblings = [
            script.parent / f"{module}.py" for module in re.findall(r"^from (\w+) import", code, re.M)
        ]
        code += "".join(path.read_text(encoding="utf-8") for path in siblings if path.exists())
        unknown += [flag for flag in re.findall(r"--[a-z][\w-]*", given) if f'"{flag}"' not in code]
    return unknown


def test_commands_of_pages_and_docstrings_have_their_flags() -> None:
    texts = {path.relative_to(ROOT).as_posix(): text_of(path) for path in TEXTS}
    unknown = [
        (name, words, unknown_flags(words))
        for name, text in texts.items()
        for words in commands_of(text)
        if unknown_flags(words)
    ]
    unknown += [(name, unknown_to_scripts(text)) for name, text in texts.items() if unknown_to_scripts(text)]
    assert unknown == []


def test_planted_flags_and_commands_are_found() -> None:
    assert unknown_flags(["autopeft", "search", "--budget", "1%", "--bugdet", "2%"]) == ["--bugdet"]
    assert unknown_flags(["autopeft", "info", "skil"]) == ["skil"]
    assert commands_of("`autopeft list` and\n\n    autopeft count a.yaml # it") == [
        ["autopeft", "list"],
        ["autopeft", "count", "a.yaml"],
    ]
    command = "python benchmarks/tabular/replay.py [--cells NAME …]\n          [--seads 3] and `--sweep`"
    assert unknown_to_scripts(command) == ["--seads"]
