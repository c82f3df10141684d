"""The commands that list methods, formats and search spaces, each described by its own file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from textwrap import wrap
from types import SimpleNamespace
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from autopeft.cli import options as opt
from autopeft.cli.exit_codes import exit_codes
from autopeft.cli.imports import heavy_imports
from autopeft.cli.printing import columns, print_json
from autopeft.cli.usage import at_home
from autopeft.extension import REFERENCE_WIDTH, Catalogue, Method, discover
from autopeft.records import rate

_INDENT = 18
_GAP = 2  # columns between two columns of a table

_Name = Annotated[str | None, typer.Argument(help="Describe this method in full, with its sources.")]

_SpaceName = Annotated[
    str | None, typer.Argument(help="Print the file of this space, or check and print a file of your own.")
]
_Model = Annotated[
    str | None,
    typer.Option(
        "--model", help="Show learning rates and sites on this model: hub id, or directory.", callback=at_home
    ),
]
# What the parts say about themselves, since importing them takes seconds; `scripts/part_facts.py` writes it.
# Where other packages publish parts, all are imported.
TABLE = Path(__file__).with_name("parts.json")


def methods(name: _Name = None, model: _Model = None, as_json: opt.Json = False) -> None:
    """List the PEFT methods, or describe one.

    Learning rates depend on the hidden size of the base model, of which --model needs the config alone.
    """
    with exit_codes(quiet=as_json):
        if model is not None:
            _print_methods_on(model, name, as_json=as_json)
            return
        all_methods = known("method")
        shown = list(all_methods.values()) if name is None else [all_methods[name]]
        if as_json:
            print_json({facts["name"]: facts for facts in shown})
        elif name is None:
            rows = [(m["name"], m["label"], m["summary"], _yes_or_no(m["merges"]), _range(m)) for m in shown]
            print_rows(("name", "method", "what is trained", "merges", "learning rate"), rows)
            note = f"The learning rates are for a hidden size of {REFERENCE_WIDTH}; --model shows others."
            print("", *wrap(note, columns()), sep="\n")
        else:
            print(_method_text(shown[0], hidden_size=REFERENCE_WIDTH))


def formats(as_json: opt.Json = False) -> None:
    """List the formats that `export` writes."""
    with exit_codes(quiet=as_json):
        rows = [(name, facts["summary"]) for name, facts in known("export").items()]
        if as_json:
            print_json(dict(rows))
        else:
            print_rows(("format", "what it is"), rows)


def spaces(name: _SpaceName = None, as_json: opt.Json = False) -> None:
    """List the search spaces that come with autopeft, or print the file of one, to copy and change."""
    with exit_codes(quiet=as_json):
        from autopeft import space as search_space

        all_methods = known("method").changed(lambda facts: SimpleNamespace(**facts))
        shown = search_space.names() if name is None else (name,)
        loaded = {
            name: search_space.load(name, known_methods=cast(Mapping[str, Method], all_methods))
            for name in shown
        }
        if name is not None and not as_json:
            print(search_space.text_of(name), end="")
        elif as_json:
            print_json({name: space.model_dump(mode="json") for name, space in loaded.items()})
        else:
            rows = [(name, space.about, ", ".join(space.arms)) for name, space in loaded.items()]
            print_rows(("space", "about", "methods and mixes"), rows)


def _print_methods_on(model: str, name: str | None, *, as_json: bool) -> None:
    """Print the methods, or one of them, as they are on a base model."""
    with heavy_imports():
        from autopeft import commands

    on_model = commands.methods_on(model)
    methods = list(on_model.methods.values()) if name is None else [on_model.methods[name]]
    shown = [method_facts(method) for method in methods]
    if as_json:
        of_model = {"base_model": on_model.base_model, "hidden_size": on_model.hidden_size}
        print_json({m["name"]: {**m, **of_model, "n_sites": on_model.n_sites[m["name"]]} for m in shown})
    elif name is None:
        rows = [(m["name"], m["label"], f"{on_model.n_sites[m['name']]:,}", _range(m)) for m in shown]
        print(f"{on_model.base_model}, hidden size {on_model.hidden_size:,}\n")
        print_rows(("name", "method", "sites", "learning rate"), rows)
    else:
        print(_method_text(shown[0], hidden_size=on_model.hidden_size))


def _method_text(method: Mapping[str, Any], *, hidden_size: int) -> str:
    """Everything about one method, at most 80 columns wide."""
    servers = ", ".join(method["servers"])
    options = "; ".join(f"{name} {_values(values)}" for name, values in method["choices"].items())
    facts = {
        "trains": method["summary"],
        "parameters": f"{method['formula']}, for a map of n inputs and m outputs",
        "ranks": "yes" if method["ranked"] else "none",
        "identity at start": _yes_or_no(method["identity_at_start"]),
        "merges": _yes_or_no(method["merges"]),
        "read by": servers or ("peft alone; merge it to serve it" if method["merges"] else "peft alone"),
        "learning rates": f"{_range(method)} at hidden size {hidden_size}: {method['learning_rate_source']}",
        "step time": f"{method['step_time']:.2f}: {method['step_time_source']}",
        "options": options or "none",
    }
    lines = [f"{name:<{_INDENT}}{text}" for name, text in facts.items()]
    wrapped = [wrap(line, columns(), subsequent_indent=" " * _INDENT) for line in lines]
    title = f"{method['name']}: {method['label']}"
    return "\n".join([title, "", *(line for lines in wrapped for line in lines)])


def _values(values: Iterable[object]) -> str:
    return ", ".join(str(value).lower() if isinstance(value, bool) else str(value) for value in values)


def _range(method: Mapping[str, Any]) -> str:
    return " … ".join(map(rate, method["learning_rate_range"]))


def print_rows(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a plain table, with lines broken between words where the terminal is wide enough for these."""
    rows, out = list(rows), Console(highlight=False)
    widths = _widths([headers, *rows], out.width - _GAP * (len(headers) - 1))
    named = zip(headers, widths, strict=True)
    table = Table(
        *(Column(header, overflow="fold", width=width) for header, width in named), box=None, pad_edge=False
    )
    for row in rows:
        table.add_row(*map(escape, row))  # text of a part may hold brackets
    out.print(table)


def _widths(rows: Sequence[Sequence[str]], room: int) -> list[int]:
    """Widths of columns in so much room: those are narrowed that have most beyond their longest word.

    Example:
        >>> _widths([("ab", "two words"), ("abc def", "-")], room=11)
        [4, 7]
    """
    cells = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in cells]
    least = [max(len(word) for cell in column for word in (cell.split() or [""])) for column in cells]
    while sum(widths) > max(room, len(widths)):
        slack = [width - word for width, word in zip(widths, least, strict=True)]
        # Where no column has a longest word to spare, the widest gives.
        chosen = slack.index(max(slack)) if max(slack) > 0 else widths.index(max(widths))
        widths[chosen] -= 1
    return widths


def _yes_or_no(fact: bool) -> str:
    return "yes" if fact else "no"


def method_facts(method: Method) -> dict[str, Any]:
    """Everything about one method that is text, numbers or lists of them."""
    facts = {name: getattr(method, name) for name in Method.__annotations__}
    return {**facts, "servers": list(method.servers({}))}


FACTS: Mapping[str, Callable[[Any], Mapping[str, Any]]] = {
    "method": method_facts,
    "export": lambda exporter: {"name": exporter.name, "summary": exporter.summary},
}


def known(kind: str) -> Catalogue[Mapping[str, Any]]:
    """The facts about every part of a kind, by its name; an unknown name raises UnknownNameError."""
    group = f"autopeft.{kind}s"
    if metadata.entry_points(group=group):
        parts: Catalogue[Any] = discover(group)
        return parts.changed(FACTS[kind])
    return Catalogue(kind, json.loads(TABLE.read_text(encoding="utf-8"))[kind])
