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


def test_a_count_has_no_line_beyond_the_edge(tiny_llama):
    def rows_at(columns):
        lines = lines_of("count", "lora_r8", "--model", str(tiny_llama), columns=columns)
        assert all(len(line) <= columns or " " not in line for line in lines)  # but for the model's path
        return [line.split()[0] for line in lines if line.startswith(("q ", "down ", "role "))]

    assert rows_at(30) == rows_at(80) == rows_at(300) != []
