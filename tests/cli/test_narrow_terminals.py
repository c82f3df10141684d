"""Lists and comparisons on terminals narrower than 80 columns: no broken word, no line beyond the edge."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from autopeft.cli.app import app
from autopeft.cli.sizes import comparison_table


def lines_of(*arguments, columns):
    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": str(columns), "TERM": "dumb"})
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("command", ["methods", "spaces", "formats"])
def test_a_list_breaks_its_lines_between_words(command, columns):
    wide, narrow = lines_of(command, columns=300), lines_of(command, columns=columns)
    assert max(map(len, narrow)) <= columns
    assert {word for line in narrow for word in line.split()} == {
        word for line in wide for word in line.split()
    }


def test_a_count_has_no_line_beyond_the_edge(tiny_llama):
    def rows_at(columns):
        lines = lines_of("count", "lora_r8", "--model", str(tiny_llama), columns=columns)
        assert all(len(line) <= columns or " " not in line for line in lines)  # but for the model's path
        return [line.split()[0] for line in lines if line.startswith(("q ", "down ", "role "))]

    assert rows_at(30) == rows_at(80) == rows_at(300) != []


HEADERS = ("trained", "parameters", "share", "peak GiB", "step ms", "file", "read by")
ROWS = [
    ("…/best/plan.yaml", "9,504", "0.20 %", "0.8", "10", "38.0 kB", "vllm, tgi, llama.cpp"),
    ("lora_r16", "36,864", "0.77 %", "0.8", "10", "147.5 kB", "vllm, tgi, llama.cpp"),
    ("full", "4,781,136", "100.00 %", "0.8", "7", "9.6 MB", "any"),
]


@pytest.mark.parametrize(("columns", "left_out"), [(60, ("file",)), (80, ()), (120, None)])
def test_a_comparison_names_below_what_has_no_room(monkeypatch, columns, left_out):
    monkeypatch.setenv("COLUMNS", str(columns))
    (heading, *rows), notes = comparison_table(HEADERS, ROWS)
    shown = [h for h in HEADERS if left_out is None or h not in (*left_out, "read by")]
    assert re.split(r" {2,}", heading) == shown
    assert [len(re.split(r" {2,}", row)) for row in rows] == [len(shown)] * 3
    read_by = ["read by: vllm, tgi, llama.cpp (…/best/plan.yaml, lora_r16); any (full)"]
    missing = [f"no room for: {', '.join(left_out)}; --json has all"] if left_out else []
    assert notes == ([] if left_out is None else [*read_by, *missing])
