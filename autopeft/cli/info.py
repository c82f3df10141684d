"""`autopeft info`: what is installed, and the methods, search spaces and formats that there are."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from autopeft.cli import options as opt
from autopeft.cli.environment import heavy_imports
from autopeft.cli.exit_codes import PlainErrors, exit_codes
from autopeft.cli.printing import columns, json_text, lines_of, table
from autopeft.errors import AutopeftError
from autopeft.plugins import REFERENCE_WIDTH, Method, discover
from autopeft.types import rate

app = typer.Typer(name="info", cls=PlainErrors, invoke_without_command=True)

log = logging.getLogger(__name__)
SKILL = Path(__file__).parents[1] / "SKILL.md"


@app.callback()
def info(
    context: typer.Context,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Train on the GPU for about five minutes, and check what it does.")
    ] = False,
    as_json: opt.Json = False,
) -> None:
    """Print versions, devices and what is installed; or list methods, search spaces and formats."""
    if context.invoked_subcommand is not None:
        if as_json or gpu:
            raise typer.BadParameter(f"--json belongs after {context.invoked_subcommand}; --gpu is for info.")
        return
    if gpu:
        _check_gpu(as_json=as_json)
        return
    with exit_codes(as_json=as_json, quiet=True):
        with heavy_imports():
            from autopeft.commands import info as facts

        versions, devices, broken = facts.versions(), facts.devices(), facts.broken_plugins()
        if as_json:
            print(json_text({"versions": versions, "devices": devices, "broken_plugins": broken}))
        else:
            rows = [(name, value or "none") for name, value in (versions | devices).items()]
            print(*table((), rows, n_texts=2), *lines_of(broken), sep="\n")


def _check_gpu(*, as_json: bool) -> None:
    """Print the rows of all checks as a table, and everything as JSON to paste; exit with 1 if one failed."""
    with exit_codes(as_json=as_json):
        with heavy_imports():
            from autopeft.gpu_check import checks

        place, rows = checks.this_gpu(), []
        for row in checks.check_gpu(place):
            log.info("%s", f"{row.status}  {row.check}: {row.found} ({row.seconds:.0f} s)")
            rows.append(row)
        report = json_text(checks.report_of(place, rows))
        if not as_json:
            texts = [(row.check, row.status, row.found) for row in rows]
            print(_texts(("check", "result", "found"), texts), end="\n\n")
        print(report)
        if any(row.status == "FAIL" for row in rows):
            raise typer.Exit(AutopeftError.exit_code)


@app.command()
def methods(
    name: Annotated[
        str | None, typer.Argument(help="Describe this method in full, with its sources.")
    ] = None,
    as_json: opt.Json = False,
) -> None:
    """List the PEFT methods, or describe one."""
    with exit_codes(as_json=as_json):
        with heavy_imports():
            catalogue = discover("autopeft.methods")

        shown = [method_facts(each) for each in (catalogue.values() if name is None else (catalogue[name],))]
        if as_json:
            print(json_text({method["name"]: method for method in shown}))
        elif name is not None:
            facts = [(field.replace("_", " "), _shown(value)) for field, value in shown[0].items()]
            print(f"{name}: {shown[0]['label']}", "", *table((), facts, n_texts=2, width=columns()), sep="\n")
        else:
            rows = [(m["name"], m["label"], m["summary"], _range(m)) for m in shown]
            note = f"The learning rates are for a hidden size of {REFERENCE_WIDTH}; a search adapts them."
            print(_texts(("name", "method", "what is trained", "learning rate"), rows), end="\n\n")
            print(*lines_of([note, *catalogue.broken.values()]), sep="\n")


@app.command()
def formats(as_json: opt.Json = False) -> None:
    """List the formats that `export` writes."""
    with exit_codes(as_json=as_json):
        with heavy_imports():
            rows = [(each.name, each.summary) for each in discover("autopeft.exports").values()]

        print(json_text(dict(rows)) if as_json else _texts(("format", "what it is"), rows))


@app.command()
def spaces(
    name: Annotated[
        str | None,
        typer.Argument(help="Print the file of this space, or check and print a file of your own."),
    ] = None,
    as_json: opt.Json = False,
) -> None:
    """List the search spaces that come with autopeft, or print the file of one, to copy and change."""
    with exit_codes(as_json=as_json):
        with heavy_imports():
            from autopeft import space as search_space

            catalogue = discover("autopeft.methods")

        shown = search_space.names() if name is None else (name,)
        loaded = {name: search_space.load(name, known_methods=catalogue) for name in shown}
        if as_json:
            print(json_text({name: space.model_dump(mode="json") for name, space in loaded.items()}))
        elif name is not None:
            print(search_space.text_of(name), end="")
        else:
            rows = [(name, space.about, ", ".join(space.arms)) for name, space in loaded.items()]
            print(_texts(("space", "about", "methods and mixes"), rows))


@app.command()
def skill(as_json: opt.Json = False) -> None:
    """Print the skill for coding agents: which command to use when, and how to read its answer."""
    with exit_codes(as_json=as_json):
        text = SKILL.read_text(encoding="utf-8")
        print(json_text({"skill": text}) if as_json else text.rstrip())


def method_facts(method: Method) -> dict[str, Any]:
    """Collect the facts about a method as values that JSON can hold."""
    values = {field.name: getattr(method, field.name) for field in fields(method)}
    facts = {name: value for name, value in values.items() if not callable(value)}
    return {**facts, "ranked": method.ranked, "servers": list(method.servers({}))}


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {_shown(each)}" for name, each in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _texts(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(table(headers, rows, n_texts=len(headers)))


def _range(method: Mapping[str, Any]) -> str:
    return " … ".join(map(rate, method["learning_rate_range"]))
