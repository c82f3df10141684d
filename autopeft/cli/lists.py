"""The commands that list methods, formats and search spaces, each described by its own file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from textwrap import wrap
from typing import Annotated, Any

import typer

from autopeft.cli import options as opt
from autopeft.cli.exit_codes import exit_codes
from autopeft.extension import REFERENCE_WIDTH, Method, discover
from autopeft.report.words import rate

_COLUMNS, _INDENT = 80, 18


def print_json(content: Any) -> None:
    """Print one JSON object; infinite numbers and NaN, which JSON has not, raise ValueError."""
    print(json.dumps(content, indent=2, allow_nan=False))


_Name = Annotated[str | None, typer.Argument(help="Describe this method in full, with its sources.")]


_Model = Annotated[
    str | None,
    typer.Option("--model", help="Show learning rates and sites on this model: hub id, or directory."),
]


def methods(name: _Name = None, model: _Model = None, as_json: opt.Json = False) -> None:
    """List the PEFT methods, or describe one.

    Learning rates depend on the hidden size of the base model, of which --model needs the config alone.
    """
    with exit_codes(quiet=as_json):
        from autopeft.cli import tables

        if model is not None:
            _print_methods_on(model, name, as_json=as_json)
            return
        known = discover("autopeft.methods")
        shown = list(known.values()) if name is None else [known[name]]
        if as_json:
            print_json({method.name: _method_json(method) for method in shown})
        elif name is None:
            rows = [(m.name, m.label, m.summary, _yes_or_no(m.merges), _range(m)) for m in shown]
            tables.print_rows(("name", "method", "what is trained", "merges", "learning rate"), rows)
            print(f"\nThe learning rates are for a hidden size of {REFERENCE_WIDTH}; --model shows others.")
        else:
            print(_method_text(shown[0], hidden_size=REFERENCE_WIDTH))


def formats(as_json: opt.Json = False) -> None:
    """List the formats that `export` writes."""
    with exit_codes(quiet=as_json):
        from autopeft.cli import tables

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

        known = discover("autopeft.methods")
        loaded = {name: search_space.load(name, known_methods=known) for name in search_space.names()}
        if as_json:
            print_json({name: space.model_dump(mode="json") for name, space in loaded.items()})
        else:
            rows = [(name, space.about, ", ".join(space.arms)) for name, space in loaded.items()]
            tables.print_rows(("space", "about", "methods and mixes"), rows)


def _print_methods_on(model: str, name: str | None, *, as_json: bool) -> None:
    """Print the methods, or one of them, as they are on a base model."""
    from autopeft import pipeline
    from autopeft.cli import tables

    found = pipeline.methods_on(model)
    shown = list(found.methods.values()) if name is None else [found.methods[name]]
    if as_json:
        of_model = {"base_model": found.base_model, "hidden_size": found.hidden_size}
        print_json([{**_method_json(m), **of_model, "n_sites": found.n_sites[m.name]} for m in shown])
    elif name is None:
        rows = [(m.name, m.label, f"{found.n_sites[m.name]:,}", _range(m)) for m in shown]
        print(f"{found.base_model}, hidden size {found.hidden_size:,}\n")
        tables.print_rows(("name", "method", "sites", "learning rate"), rows)
    else:
        print(_method_text(shown[0], hidden_size=found.hidden_size))


def _method_text(method: Method, *, hidden_size: int) -> str:
    """Everything about one method, at most 80 columns wide."""
    servers = ", ".join(method.servers({}))
    options = "; ".join(f"{name} {_values(values)}" for name, values in method.choices.items())
    facts = {
        "trains": method.summary,
        "parameters": f"{method.formula}, for a map of n inputs and m outputs",
        "ranks": "yes" if method.ranked else "none",
        "identity at start": _yes_or_no(method.identity_at_start),
        "merges": _yes_or_no(method.merges),
        "read by": servers or ("peft alone; merge it to serve it" if method.merges else "peft alone"),
        "learning rates": f"{_range(method)} at hidden size {hidden_size}: {method.learning_rate_source}",
        "step time": f"{method.step_time:.2f}: {method.step_time_source}",
        "options": options or "none",
    }
    lines = [f"{name:<{_INDENT}}{text}" for name, text in facts.items()]
    wrapped = [wrap(line, _COLUMNS, subsequent_indent=" " * _INDENT) for line in lines]
    return "\n".join([f"{method.name}: {method.label}", "", *(line for lines in wrapped for line in lines)])


def _method_json(method: Method) -> dict[str, Any]:
    """Everything about one method, for scripts."""
    facts = {name: getattr(method, name) for name in Method.__annotations__}
    return {**facts, "servers": list(method.servers({}))}


def _values(values: Iterable[object]) -> str:
    return ", ".join(str(value).lower() if isinstance(value, bool) else str(value) for value in values)


def _range(method: Method) -> str:
    return " … ".join(map(rate, method.learning_rate_range))


def _yes_or_no(fact: bool) -> str:
    return "yes" if fact else "no"
