"""The flags of the commands: flags of settings, by their declaration, and flags that commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from autopeft.types import SHORT_NAMES
from autopeft.types.fields import Group, SettingField

_MANY_CHOICES = 10  # too many for the column of the values; heuristic


def _option(text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="Run", **more)


Resume = Annotated[bool, _option("Resume the stopped run in --out.", "--resume")]
Config = Annotated[Path | None, _option("YAML file with settings, such as a run's run.yaml.")]
DryRun = Annotated[bool, _option("Check everything and show what would be done.", "--dry-run")]
Yes = Annotated[bool, _option("Start a search of more than 8 hours without asking.", "--yes")]
Json = Annotated[bool, _option("Print one JSON object on stdout and nothing else.", "--json")]
Verbose = Annotated[
    bool,
    _option("Show all notes: how the data are read, each derived setting.", "--verbose", "-v"),
]
Quiet = Annotated[bool, _option("Show no progress and no notes.", "--quiet", "-q")]

# The flags of `search`: all settings by group, with the help of their declarations.
SEARCH_FLAGS: Mapping[str, str | None] = dict.fromkeys(
    sorted(SHORT_NAMES, key=lambda name: get_args(Group).index(SHORT_NAMES[name].group))
)

Command = Callable[..., None]


def takes_settings(flags: Mapping[str, str | None]) -> Callable[[Command], Command]:
    """Make a decorator that replaces the parameter `settings` of a command by flags of settings.

    The command gets a mapping from dotted names to the values that the user set. `flags` maps short names, in
    the order of the help, to a help text; None takes the declared help and group.
    """

    def decorate(command: Command) -> Command:
        parameters = []
        # Not by `get_type_hints`, which hides options whose default is None from typer on Python 3.10.
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            if parameter.name == "settings":
                parameters += [_parameter(SHORT_NAMES[name], text) for name, text in flags.items()]
            else:
                parameters.append(parameter)

        @wraps(command)
        def with_flags(**arguments: Any) -> None:
            values = {SHORT_NAMES[name].name: arguments.pop(name) for name in flags}
            settings = {name: value for name, value in values.items() if value is not None}
            command(settings=settings, **arguments)

        # typer reads the signature as well as the annotations.
        with_flags.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_flags.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return with_flags

    return decorate


def _parameter(field: SettingField, text: str | None) -> inspect.Parameter:
    help_text, has_many = text or field.text, len(field.choices) >= _MANY_CHOICES
    option = typer.Option(
        field.flag,
        help=f"{help_text[:-1]}: {', '.join(field.choices)}." if has_many else help_text,
        metavar=_metavar(field),
        rich_help_panel="Options" if text else field.group,
    )
    kind: Any = list[str] if field.form == "repeated" else str  # `resolve_settings` parses it later
    return inspect.Parameter(
        field.short,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _metavar(field: SettingField) -> str | None:
    """Choose what the help shows for the value; None leaves it to typer."""
    if 0 < len(field.choices) < _MANY_CHOICES:
        return f"[{'|'.join(field.choices)}]"
    endings = {"_seconds": "<time>", "_bytes": "<size>"}
    kinds = {int: "<int>", float: "<float>"}  # as typer writes them
    usual = "<path>" if field.form == "path" else kinds.get(field.kind)
    return next((word for ending, word in endings.items() if field.name.endswith(ending)), usual)
