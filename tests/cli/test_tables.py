"""What is printed on stdout about results."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from toys.results import FIFTH, kept_default, toy_full_run, toy_result

from autopeft.cli.results import reply_text, result_text
from autopeft.commands import Reply
from autopeft.report.formatting import duration, interval

FOLDER = Path("runs [/old]") / ("long-" * 20) / "[a]"


def test_an_answer_fits_a_small_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert len(result_text(kept_default(), Path("reports/RUN")).splitlines()) <= 24


def test_the_difference_is_next_to_the_challenger():
    shown = result_text(kept_default(), FOLDER).splitlines()
    (line,) = (line for line in shown if line.startswith("challenger"))
    assert re.split(r" {2,}", line)[3] == f"−0.7 ({interval(-0.028, 0.014, True)})"


def test_finalists_of_the_same_words_differ_by_their_rates():
    result = kept_default()
    plans = [replace(FIFTH, learning_rate=rate) for rate in (2e-3, 5e-3)]
    twins = [toy_full_run("finalist", plan, "confirm", 0.9) for plan in plans]
    shown = " ".join(result_text(replace(result, full_runs=(*result.full_runs, *twins)), FOLDER).split())
    assert all(shown.count(f"learning rate {rate}") == 1 for rate in ("2e-3", "5e-3"))
    assert shown.count("learning rate") == 2


def steps_of(result, folder):
    """The commands at the end, without the one that opens the report."""
    commands = [line.strip() for line in result_text(result, folder).splitlines() if line.startswith("  ")]
    return [words for words in commands if words.startswith("autopeft ")]


@pytest.mark.parametrize(
    ("facts", "inputs"),
    [
        ({"label_kind": "class", "input_columns": ("text",)}, '"a text"'),
        ({"label_kind": "class", "input_columns": ("premise", "hypothesis")}, '"a text" "a text"'),
        ({"label_kind": "completion", "input_columns": ("instruction", "input")}, '"a text"'),
        ({"label_kind": "class", "input_columns": ("image",), "task": "image-classification"}, "image.png"),
    ],
)
def test_the_next_steps_ask_the_adapter_and_push_it(tmp_path, facts, inputs):
    (tmp_path / "best" / "weights").mkdir(parents=True)
    result = toy_result()
    result = replace(result, setting=replace(result.setting, **facts))
    expected = [f"autopeft try {tmp_path} {inputs}", f"autopeft push {tmp_path} user/name"]
    assert steps_of(result, tmp_path) == expected


def test_numbers_of_any_size_are_written_out():
    assert [duration(seconds) for seconds in (0.0035, 0.5, 8.04)] == ["0.0035 s", "0.5 s", "8.0 s"]
    assert reply_text(Reply(input="a house", number=412345.6), is_alone=True) == "412300"
