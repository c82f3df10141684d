"""What autopeft says about itself: `info skill` prints the skill for coding agents."""

from __future__ import annotations

from pathlib import Path

import typer

from autopeft.cli import options as opt
from autopeft.cli.exit_codes import PlainErrors, exit_codes
from autopeft.cli.printing import print_json

app = typer.Typer(name="info", cls=PlainErrors, no_args_is_help=True, help="What autopeft says about itself.")

SKILL = Path(__file__).parents[1] / "SKILL.md"


@app.command()
def skill(as_json: opt.Json = False) -> None:
    """Print the skill for coding agents: which command to use when, and how to read its answer."""
    with exit_codes(as_json=as_json):
        text = SKILL.read_text(encoding="utf-8")
        if as_json:
            print_json({"skill": text})
        else:
            print(text, end="")
