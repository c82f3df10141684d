"""A name that autopeft no longer has is answered with what to do instead, wherever it is typed."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

import autopeft
from autopeft.cli.app import app
from autopeft.errors import SpecError, UnknownNameError
from autopeft.removed import REMOVED, instead_of
from autopeft.store import by_dotted_name, resolve_settings

NOTHING = {"config": None, "env": {}, "flags": {}, "assignments": []}


@pytest.fixture(autouse=True)
def gone(monkeypatch):
    monkeypatch.setitem(REMOVED, "old_way", "use --budget 0.5%")


@pytest.mark.parametrize(
    "place", [{"assignments": ["search.old_way=1"]}, {"env": {"AUTOPEFT_SEARCH_OLD_WAY": "1"}}], ids=str
)
def test_a_removed_setting_says_what_to_do_instead(place):
    with pytest.raises(UnknownNameError, match=r"was removed; use --budget 0.5%\.$"):
        resolve_settings(**{**NOTHING, **place})


def test_a_removed_setting_of_a_file_says_so(tmp_path):
    (tmp_path / "run.yaml").write_text("search: {old_way: true}\n")
    with pytest.raises(SpecError, match=r"'search.old_way' was removed; use --budget"):
        resolve_settings(**{**NOTHING, "config": tmp_path / "run.yaml"})


def test_a_removed_argument_and_attribute_of_python_say_so():
    with pytest.raises(UnknownNameError, match="'old_way' was removed; use --budget"):
        by_dotted_name({"old_way": 1})
    with pytest.raises(AttributeError, match="old_way was removed; use --budget"):
        autopeft.old_way  # noqa: B018


@pytest.mark.parametrize("words", [["search", "--old-way"], ["search", "--old-way=3"], ["old-way"]], ids=str)
def test_a_removed_flag_or_command_says_so(words):
    assert "-way was removed; use --budget 0.5%.\n" in CliRunner().invoke(app, words).output


def test_names_that_exist_are_not_called_removed():
    assert not [name for name in autopeft.__all__ if instead_of(name)]
    assert [sentence for sentence in REMOVED.values() if sentence[0].isupper() or sentence[-1] == "."] == []


def test_a_column_of_the_data_may_have_a_name_that_was_removed():
    with pytest.raises(UnknownNameError, match="no column named 'old_way'; known: text"):
        raise UnknownNameError("column", "old_way", ["text"])


def test_a_removed_topic_is_found_by_its_environment_variable():
    assert (
        instead_of("AUTOPEFT_FORGETTING_SOURCE")
        == instead_of("--forgetting")
        == instead_of("forgetting.source")
    )
