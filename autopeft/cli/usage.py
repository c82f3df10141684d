"""How the command line explains itself: one style of errors, and help in two lengths."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from autopeft.removed import instead_of

# What typer raises on wrong usage. It has a copy of click in newer versions, so that the class is found by
# one of its children: BadParameter → UsageError → ClickException.
_UsageError: Any = typer.BadParameter.__bases__[0]


def open_missing_streams() -> None:
    """Drop what goes to a stream that the caller has closed (`2>&-`), for which Python has None."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - kept open


def require_docstrings() -> None:
    """End the process with a sentence where Python has dropped all docstrings, as `-OO` makes it do."""
    if sys.flags.optimize > 1:
        print(
            "error: Python runs without docstrings (-OO, PYTHONOPTIMIZE=2), and transformers reads those of "
            "its models; use -O (PYTHONOPTIMIZE=1) at most.",
            file=sys.stderr,
        )
        sys.exit(2)


class PlainErrors(TyperGroup):
    """A group of commands whose usage errors read as all others do: `error: …`, without a box."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command; in standalone mode its end is the end of the process."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # an ASCII terminal gets ? for a dash, in help too
                stream.reconfigure(errors="replace")
        if not extra.pop("standalone_mode", True):
            return super().main(*args, standalone_mode=False, **extra)  # type: ignore[misc]
        try:
            code = super().main(*args, standalone_mode=False, **extra)  # type: ignore[misc]
        except typer.Abort:
            sys.exit(1)
        except _UsageError as error:
            if type(error).__name__ == "NoArgsIsHelpError":  # the help is printed already
                sys.exit(2)
            typed = extra.get("args") or (args[0] if args else sys.argv[1:])
            print(self._sentence(error, typed), file=sys.stderr)
            sys.exit(2)
        sys.exit(code if isinstance(code, int) else 0)

    def get_params(self, ctx: Any) -> Any:
        """The parameters of the group; its switches show no type in the help."""
        return _plain_switches(super().get_params(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command, whose switches show no type either."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            _plain_switches(command.get_params(ctx))  # `--help` among them, which the command keeps
        return command

    def _sentence(self, error: Any, typed: Sequence[str]) -> str:
        """What was wrong, and which command explains itself."""
        words = " ".join(error.format_message().split())
        if hasattr(error.__cause__, "errors"):  # of pydantic, which newer typers read values with
            from autopeft.store import faults_of

            words = f"{error.param.opts[0]} {faults_of(error.__cause__)[0][1]}"
        unknown = re.search(r"^No such (option|command):? '?([^\s']+?)'?[.:]?(\s|$)", words)
        kind = f"{unknown[1]} of autopeft {error.ctx.info_name}" if unknown and error.ctx else ""
        if unknown and (instead := instead_of(kind, unknown[2])):
            return f"error: {unknown[2]} was removed; {instead}."
        end = "" if words.endswith((".", "?")) else "."
        if error.ctx is not None:
            command = error.ctx.command_path
        else:  # as where an option lacks its argument
            command = " ".join(["autopeft", *(word for word in typed[:1] if word in self.commands)])
        return f"error: {words}{end} See `{command} --help`."


def _plain_switches(parameters: Sequence[Any]) -> Sequence[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


def at_home(value: Any) -> Any:
    """A path, a text or a list of these with the home folder in place of `~`, which no shell expands after =.

    Example:
        >>> at_home(Path("reports")), at_home(None)
        (PosixPath('reports'), None)
    """
    if isinstance(value, list | tuple):
        return [at_home(each) for each in value]
    if not isinstance(value, str | Path):
        return value
    text = os.path.expanduser(value)  # noqa: PTH111 - the other one raises where there is no such user
    return Path(text) if isinstance(value, Path) else text


def show_all(context: typer.Context, wanted: bool) -> None:
    """The help with every option of a command, also those that its short help leaves out."""
    if wanted:
        for parameter in context.command.params:
            parameter.hidden = False  # type: ignore[attr-defined]
        typer.echo(context.get_help())
        raise typer.Exit
