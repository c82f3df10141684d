"""Texts and lists as they are typed that name nothing, or with half of their brackets."""

from __future__ import annotations

import pytest

from autopeft.errors import SpecError
from autopeft.store import resolve_settings


def typed(**flags: str):
    named = {name.replace("__", "."): value for name, value in flags.items()}
    return resolve_settings(config=None, env={}, flags=named, assignments=())[0]


@pytest.mark.parametrize("name", ["search__methods", "search__serve_on", "output__report_to"])
@pytest.mark.parametrize("text", ["", ",", " , ", "[]"])
def test_a_list_of_nothing_is_refused(name, text):
    with pytest.raises(SpecError, match=r"names nothing; give a value, or leave it out"):
        typed(**{name: text})


def test_half_a_pair_of_brackets_is_refused():
    with pytest.raises(SpecError, match=r"'\[lora' has one bracket"):
        resolve_settings(config=None, env={"AUTOPEFT_SEARCH_METHODS": "[lora"}, flags={}, assignments=())
