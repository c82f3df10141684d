"""The commands that list methods, formats and search spaces, each described by its own file."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from autopeft.cli import options as opt
from autopeft.cli.exit_codes import exit_codes


def print_json(content: Any) -> None:
    """Print one JSON object; infinite numbers and NaN, which JSON has not, raise ValueError."""
    print(json.dumps(content, indent=2, allow_nan=False))


def methods(
    name: Annotated[
        str | None, typer.Argument(help="Describe this method in full, with its sources.")
    ] = None,
    as_json: opt.Json = False,
) -> None:
    """List the PEFT methods, or describe one."""
    with exit_codes(quiet=as_json):
        from autopeft.cli import method_texts, tables
        from autopeft.extension import discover

        known = discover("autopeft.methods")
        shown = list(known.values()) if name is None else [known[name]]
        if as_json:
            print_json({method.name: method_texts.method_json(method) for method in shown})
        elif name is None:
            tables.print_rows(method_texts.METHOD_COLUMNS, method_texts.method_rows(shown))
        else:
            print(method_texts.method_text(shown[0]))


def formats(as_json: opt.Json = False) -> None:
    """List the formats that `export` writes."""
    with exit_codes(quiet=as_json):
        from autopeft.cli import tables
        from autopeft.extension import discover

        rows = [(exporter.name, exporter.summary) for exporter in discover("autopeft.exports").values()]
        if as_json:
            print_json(dict(rows))
        else:
            tables.print_rows(("format", "what it is"), rows)


def spaces(as_json: opt.Json = False) -> None:
    """List the search spaces that come with autopeft."""
    with exit_codes(quiet=as_json):
        from autopeft import space as search_space
        from autopeft.cli import tables
        from autopeft.extension import discover

        known = discover("autopeft.methods")
        loaded = {name: search_space.load(name, known_methods=known) for name in search_space.names()}
        if as_json:
            print_json({name: space.model_dump(mode="json") for name, space in loaded.items()})
        else:
            rows = [(name, space.about, ", ".join(space.arms)) for name, space in loaded.items()]
            tables.print_rows(("space", "about", "methods and mixes"), rows)
