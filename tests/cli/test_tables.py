"""What is printed on stdout: paths and texts of users as they are, whatever brackets they hold."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from toys.results import kept_default, toy_result, with_sizes

from autopeft.cli.printing import table
from autopeft.cli.results import print_result, reply_text
from autopeft.commands import Reply
from autopeft.report.formatting import duration, interval
from autopeft.types import OWN_TRAINER

FOLDER = Path("runs [/old]") / ("long-" * 20) / "[a]"


def test_the_answer_comes_last_but_for_the_next_steps(capsys, tmp_path):
    result = toy_result()
    print_result(result, FOLDER)
    *_, above, use, cost, sure, search, blank, _, _ = capsys.readouterr().out.splitlines()
    assert use.startswith("Use LoRA of rank 2 to 13 on 7 modules: accuracy ")
    assert cost.startswith("It trains 7,296 adapter parameters")
    assert sure == result.verdict.sentence.replace("-", "−") and not blank
    in_r = f"as long as {184.9 / 50:.1f} full runs of the default."
    assert search == f"The runs of the search took 3.1 min in all, {in_r}" and not above


def test_an_answer_fits_a_small_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    print_result(kept_default(), Path("reports/RUN"))
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) <= 24


def test_the_difference_stands_beside_the_challenger(capsys):
    print_result(kept_default(), FOLDER)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("challenger"))
    assert re.split(r" {2,}", line)[3] == f"−0.7 ({interval(-0.028, 0.014, True)})"


def test_the_plan_of_a_smaller_budget_is_told_with_what_it_loses(capsys):
    print_result(with_sizes(toy_result()), FOLDER)
    (line,) = (
        line for line in capsys.readouterr().out.splitlines() if line.startswith("1/5 of the budget: ")
    )
    gap = f"−1.1 points ({interval(-0.02, -0.002, True)}) against the best plan"
    assert line.endswith(f", 1,024 parameters, accuracy 94.3 % on confirm, {gap}")


def steps_of(result, folder, capsys):
    """The commands at the end, without the one that opens the report."""
    print_result(result, folder)
    commands = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    return [words for words in commands if words.startswith("autopeft ")]


@pytest.mark.parametrize(
    ("facts", "inputs"),
    [
        ({"label_kind": "class", "input_columns": ("text",)}, '"a text of yours"'),
        ({"label_kind": "class", "input_columns": ("premise", "hypothesis")}, '"a text" "a text"'),
        ({"label_kind": "completion", "input_columns": ("instruction", "input")}, '"a text of yours"'),
        ({"label_kind": "class", "input_columns": ("image",), "task": "image-classification"}, "image.png"),
    ],
)
def test_the_next_steps_ask_the_adapter_and_push_it(capsys, tmp_path, facts, inputs):
    (tmp_path / "best" / "weights").mkdir(parents=True)
    result = toy_result()
    result = replace(result, setting=replace(result.setting, **facts))
    asked, pushed, *trained = steps_of(result, tmp_path, capsys)
    assert (asked, pushed) == (f"autopeft try {tmp_path} {inputs}", f"autopeft push {tmp_path} user/name")
    splits = result.setting.splits
    n_kept = splits.search + splits.confirm
    assert trained == [f"autopeft train --plan {tmp_path} --all-rows"]
    own = result.spec.model_copy(update={"data": result.spec.data.model_copy(update={"source": OWN_TRAINER})})
    assert len(steps_of(replace(result, spec=own), tmp_path, capsys)) == 2
    many = replace(result.setting, splits=replace(splits, train=10 * n_kept))
    assert len(steps_of(replace(result, setting=many), tmp_path, capsys)) == 2


def test_what_was_deleted_is_written_again_by_a_command(capsys, tmp_path):
    assert steps_of(toy_result(), tmp_path, capsys) == [f"autopeft search --resume --out {tmp_path}"]


def test_a_row_is_one_line_on_any_terminal(capsys, monkeypatch):
    shown = []
    for columns in (40, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        print_result(toy_result(), Path("runs/a"))
        lines = capsys.readouterr().out.splitlines()
        shown.append([line for line in lines if line.startswith(("plan ", "best ", "challenger "))])
    assert shown[0] == shown[1] and max(map(len, shown[0])) <= 80


def test_cells_of_words_are_broken_at_words_and_numbers_stand_at_the_right():
    lines = table(("name", "n"), [("a name of words", "1"), ("b", "1,000")], width=16)
    assert lines == ["name           n", "a name of      1", "words", "b          1,000"]


def test_numbers_of_any_size_are_written_out():
    assert [duration(seconds) for seconds in (0.0035, 0.5, 8.04)] == ["0.0035 s", "0.5 s", "8.0 s"]
    assert reply_text(Reply(input="a house", number=412345.6), is_alone=True) == "412300"
