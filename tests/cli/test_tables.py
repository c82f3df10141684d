"""What is printed on stdout: paths and texts of users as they are, whatever brackets they hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from toys.results import toy_result
from toys.specs import run_spec

from autopeft.cli.tables import print_result, print_several

FOLDER = Path("runs [/old]") / ("long-" * 20) / "[a]"


def test_the_folder_of_the_front_is_printed_whole_whatever_its_name(capsys):
    print_result(replace(toy_result(), spec=run_spec(objective="pareto")), FOLDER)
    assert f"plans in {FOLDER / 'front'}\n" in capsys.readouterr().out


def test_names_of_runs_and_of_labels_are_printed_as_they_are(capsys):
    result = toy_result()
    print_several([FOLDER, FOLDER], [result, result], Path("page.html"))
    assert capsys.readouterr().out.count(f"{FOLDER}: ") == 2
