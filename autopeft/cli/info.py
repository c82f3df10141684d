"""`autopeft info`: what is installed, and the methods, search spaces and formats that there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from autopeft.cli import options as opt
from autopeft.cli.environment import heavy_imports
from autopeft.cli.exit_codes import PlainErrors, exit_codes
from autopeft.cli.printing import columns, lines_of, print_json, table
from autopeft.plugins import REFERENCE_WIDTH, Method, discover
from autopeft.types import rate

app = typer.Typer(name="info", cls=PlainErrors, invoke_without_command=True)

SKILL = Path(__file__).parents[1] / "SKILL.md"


@app.callback()
def info(context: typer.Context, as_json: opt.Json = False) -> None:
    """Print versions, devices and what is installed; or list methods, search spaces and formats."""
    if context.invoked_subcommand is not None:
        return
    with exit_codes(as_json=as_json, quiet=True):
        with heavy_imports():
            from autopeft.commands import info as facts

        versions, devices, broken = facts.versions(), facts.devices(), facts.broken_plugins()
        if as_json:
            print_json({"versions": versions, "devices": devices, "broken_plugins": broken})
        else:
            rows = [(name, value or "none") for name, value in (versions | devices).items()]
            print(*table((), rows, n_texts=2), *lines_of(broken), sep="\n")


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
            print_json({method["name"]: method for method in shown})
        elif name is not None:
            _print_method(shown[0])
        else:
            _print_table(
                ("name", "method", "what is trained", "merges", "learning rate"),
                [(m["name"], m["label"], m["summary"], _yes_or_no(m["merges"]), _range(m)) for m in shown],
            )
            note = f"The learning rates are for a hidden size of {REFERENCE_WIDTH}; a search adapts them."
            print("", *lines_of([note, *catalogue.broken.values()]), sep="\n")


@app.command()
def formats(as_json: opt.Json = False) -> None:
    """List the formats that `export` writes."""
    with exit_codes(as_json=as_json):
        with heavy_imports():
            rows = [(each.name, each.summary) for each in discover("autopeft.exports").values()]

        if as_json:
            print_json(dict(rows))
        else:
            _print_table(("format", "what it is"), rows)


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
        if name is not None and not as_json:
            print(search_space.text_of(name), end="")
        elif as_json:
            print_json({name: space.model_dump(mode="json") for name, space in loaded.items()})
        else:
            rows = [(name, space.about, ", ".join(space.arms)) for name, space in loaded.items()]
            _print_table(("space", "about", "methods and mixes"), rows)


@app.command()
def skill(as_json: opt.Json = False) -> None:
    """Print the skill for coding agents: which command to use when, and how to read its answer."""
    with exit_codes(as_json=as_json):
        text = SKILL.read_text(encoding="utf-8")
        if as_json:
            print_json({"skill": text})
        else:
            print(text, end="")


def method_facts(method: Method) -> dict[str, Any]:
    """Collect the facts about a method as values that JSON can hold."""
    values = {field.name: getattr(method, field.name) for field in fields(method)}
    facts = {name: value for name, value in values.items() if not callable(value)}
    return {**facts, "ranked": method.ranked, "servers": list(method.servers({}))}


def _print_method(method: Mapping[str, Any]) -> None:
    """Print everything about one method, at most 80 columns wide."""
    choices = {
        option: (str(value).lower() if isinstance(value, bool) else str(value) for value in values)
        for option, values in method["choices"].items()
    }
    options = (f"{option} {', '.join(values)}" for option, values in choices.items())
    servers = ", ".join(method["servers"])
    facts = {
        "trains": method["summary"],
        "parameters": f"{method['formula']}, for a layer of n inputs and m outputs",
        "ranks": "yes" if method["ranked"] else "none",
        "identity at start": _yes_or_no(method["identity_at_start"]),
        "merges": _yes_or_no(method["merges"]),
        "read by": servers or ("peft alone; merge it to serve it" if method["merges"] else "peft alone"),
        "learning rates": f"{_range(method)} at width {REFERENCE_WIDTH}: {method['learning_rate_source']}",
        "step time": f"{method['step_time']:.2f}: {method['step_time_source']}",
        "options": "; ".join(options) or "none",
    }
    lines = table((), facts.items(), n_texts=2, width=columns())
    print(f"{method['name']}: {method['label']}", "", *lines, sep="\n")


def _print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print(*table(headers, rows, n_texts=len(headers)), sep="\n")


def _range(method: Mapping[str, Any]) -> str:
    return " … ".join(map(rate, method["learning_rate_range"]))


def _yes_or_no(fact: bool) -> str:
    return "yes" if fact else "no"
