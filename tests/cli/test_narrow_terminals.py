"""Lists and comparisons on terminals narrower than 80 columns: no broken word, no line beyond the edge."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from autopeft.cli.app import app
from autopeft.cli.checks import checks_text
from autopeft.cli.counts import _narrowed
from autopeft.cli.verify_push import verification_text
from autopeft.doctor import Check
from autopeft.pipeline import Reading, Verification


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


def test_an_estimate_breaks_the_names_of_its_parts_and_no_number(tiny_llama):
    command = ("estimate", "lora_r8", "--model", str(tiny_llama), "--memory", "1GiB", "--max-length", "16")

    def table_at(columns):
        lines = lines_of(*command, "--batch-size", "1", columns=columns)
        assert all(len(line) <= columns or " " not in line for line in lines)  # but for the model's path
        start = lines.index("") + 1
        return " ".join(lines[start : lines.index("", start)]).split()

    assert table_at(42) == table_at(60) == table_at(80)


def test_a_check_of_the_machine_breaks_its_value_between_words(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    check = Check(name="number format", status="ok", value="bfloat16, products of float32")
    lines = checks_text([check]).splitlines()
    assert lines[:2] == ["ok    number format  bfloat16, products", " " * 21 + "of float32"]


def test_a_verification_breaks_its_sentences_and_no_path(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    fault = "a tensor of the adapter matches no module of the base model"
    path = f"runs/{'x' * 50}"
    lines = verification_text(
        Verification(
            path=path,
            reference=path,
            base_model="tiny",
            split="confirm",
            n_examples=32,
            tolerance=1e-5,
            targets=(),
            readings=(Reading(reader="peft", largest_difference=1.0, faults=(fault,), is_same=False),),
        )
    ).splitlines()
    assert all(len(line) <= 40 or line == path for line in lines if "largest" not in line)
    assert lines.count(path) == 2 and fault in " ".join(lines)


HEADERS = ("trained", "parameters", "share", "peak GiB", "step ms", "file", "read by")
ROWS = [
    ("…/best/plan.yaml", "9,504", "0.20 %", "0.8", "10", "38.0 kB", "vllm, tgi, llama.cpp"),
    ("lora_r16", "36,864", "0.77 %", "0.8", "10", "147.5 kB", "vllm, tgi, llama.cpp"),
    ("full", "4,781,136", "100.00 %", "0.8", "7", "9.6 MB", "any"),
]


@pytest.mark.parametrize(("columns", "left_out"), [(60, ("file",)), (80, ()), (120, None)])
def test_a_comparison_names_below_what_has_no_room(monkeypatch, columns, left_out):
    monkeypatch.setenv("COLUMNS", str(columns))
    headers, rows, notes = _narrowed(HEADERS, ROWS)
    assert tuple(headers) == tuple(h for h in HEADERS if left_out is None or h not in (*left_out, "read by"))
    assert [len(row) for row in rows] == [len(headers)] * 3
    read_by = ["read by: vllm, tgi, llama.cpp (…/best/plan.yaml, lora_r16); any (full)"]
    missing = [f"no room for: {', '.join(left_out)}; --json has all"] if left_out else []
    assert notes == ([] if left_out is None else [*read_by, *missing])
