"""How the command line explains itself: one style of errors, and help in two lengths."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

# What typer raises on wrong usage. It has a copy of click in newer versions, so that the class is found by
# one of its children: BadParameter → UsageError → ClickException.
_UsageError: Any = typer.BadParameter.__bases__[0]


class PlainErrors(TyperGroup):
    """A group of commands whose usage errors read as all others do: `error: …`, without a box."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command; in standalone mode its end is the end of the process."""
        if not extra.pop("standalone_mode", True):
            return super().main(*args, standalone_mode=False, **extra)  # type: ignore[misc]
        try:
            code = super().main(*args, standalone_mode=False, **extra)  # type: ignore[misc]
        except typer.Abort:
            sys.exit(1)
        except _UsageError as error:
            print(_sentence(error), file=sys.stderr)
            sys.exit(2)
        sys.exit(code if isinstance(code, int) else 0)


def _sentence(error: Any) -> str:
    """What was wrong, and which command explains itself."""
    words = " ".join(error.format_message().split())
    end = "" if words.endswith((".", "?")) else "."
    command = error.ctx.command_path if error.ctx is not None else "autopeft"
    return f"error: {words}{end} See `{command} --help`."


def show_all(context: typer.Context, wanted: bool) -> None:
    """The help with every option of a command, also those that its short help leaves out."""
    if wanted:
        for parameter in context.command.params:
            parameter.hidden = False  # type: ignore[attr-defined]
        typer.echo(context.get_help())
        raise typer.Exit
