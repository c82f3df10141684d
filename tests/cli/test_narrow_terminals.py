"""Lists and counts on narrow terminals: no line beyond the edge, and no broken word in 80 columns."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from autopeft.cli.app import app


def lines_of(*arguments, columns):
    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": str(columns), "TERM": "dumb"})
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


@pytest.mark.parametrize("command", ["methods", "spaces", "formats"])
def test_a_list_breaks_its_lines_between_words(command):
    assert max(map(len, lines_of("info", command, columns=60))) <= 60
    wide, narrow = lines_of("info", command, columns=300), lines_of("info", command, columns=80)
    assert max(map(len, narrow)) <= 80
    assert {word for line in narrow for word in line.split()} == {
        word for line in wide for word in line.split()
    }
