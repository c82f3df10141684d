"""A name that autopeft no longer has is answered with what to do instead, wherever it is typed."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

import autopeft
from autopeft.cli.app import app
from autopeft.errors import SpecError, UnknownNameError
from autopeft.removed import instead_of
from autopeft.store import by_dotted_name, resolve_settings

NOTHING = {"config": None, "env": {}, "flags": {}, "assignments": []}


@pytest.mark.parametrize(
    "place", [{"assignments": ["search.warm_start=1"]}, {"env": {"AUTOPEFT_SEARCH_WARM_START": "1"}}], ids=str
)
def test_a_removed_setting_says_what_to_do_instead(place):
    with pytest.raises(UnknownNameError, match=r"was removed; --baseline takes a plan .* learning rate\.$"):
        resolve_settings(**{**NOTHING, **place})


def test_a_removed_setting_of_a_file_says_so(tmp_path):
    (tmp_path / "run.yaml").write_text("search: {warm_start: plan.yaml}\n")
    with pytest.raises(SpecError, match=r"'search.warm_start' was removed; --baseline"):
        resolve_settings(**{**NOTHING, "config": tmp_path / "run.yaml"})


def test_a_removed_argument_and_attribute_of_python_say_so():
    with pytest.raises(UnknownNameError, match="'warm_start' was removed; --baseline"):
        by_dotted_name({"warm_start": 1})
    with pytest.raises(AttributeError, match=r"SensitivityCallback was removed; autopeft\.analyze"):
        autopeft.SensitivityCallback  # noqa: B018


@pytest.mark.parametrize(
    "words",
    [["search", "--warm-start"], ["train", "--warm-start=x"], ["worker"], ["export", "--rank", "8"]],
    ids=str,
)
def test_a_removed_flag_or_command_says_so(words):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2 and "error: There is no " in result.output


@pytest.mark.parametrize(
    ("kind", "name"),
    [("column", "size"), ("setting", "size"), ("option of autopeft search", "--rank"), ("method", "random")],
)
def test_a_name_is_called_removed_only_where_it_once_was(kind, name):
    assert instead_of(kind, name) is None


def test_a_removed_topic_is_found_by_its_environment_variable():
    instead = instead_of("environment variable", "AUTOPEFT_FORGETTING_SOURCE")
    assert instead == instead_of("option of autopeft search", "--forgetting")
    assert instead == instead_of("setting (run.yaml)", "forgetting.source") is not None
