"""The commands of autopeft in this process, and what a refusal looks like."""

from __future__ import annotations

from typer.testing import CliRunner

from autopeft.cli.app import app


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(result, code, *words):
    assert result.exit_code == code, result.output
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in result.output
    assert [word for word in words if word not in error] == [], error
