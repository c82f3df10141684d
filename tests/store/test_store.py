"""YAML read strictly, files written whole, and plans that survive the way to disk and back."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from autopeft.errors import RunDirError, SpecError
from autopeft.store import (
    claimed_folder,
    parse_yaml,
    read_plan,
    read_yaml,
    write_plan,
    write_text,
    write_yaml_text,
)
from autopeft.types import Adapter, DataSpec, ModelSpec, Plan, PlanDocument, TaskSpec


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 0.0001), ("5E-4", 0.0005), ("-.5e3", -500.0), ("1.5", 1.5), ("e3", "e3")]
)
def test_a_number_with_an_exponent_is_a_number(text, value):
    read = parse_yaml(f"x: {text}", source="t")["x"]
    assert (read, type(read)) == (value, type(value))


def test_a_key_that_is_given_twice_is_refused_with_its_line(tmp_path):
    path = tmp_path / "conf.yaml"
    path.write_text("search:\n  trials: 1\n  trials: 2\n")
    with pytest.raises(SpecError, match="line 3"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("- 1", r"\[1\]"),
        ("a: [1", "line 1"),
        ("a: 1\n--- \nb: 2", "line 2"),
        ("a: !!python/name:os.system", "os.system"),
    ],
)
def test_text_that_is_not_a_mapping_is_refused_in_one_sentence(text, words):
    with pytest.raises(SpecError, match=words):
        parse_yaml(text, source="t")


# PyYAML folds these line breaks into plain ones.
CHARACTERS = st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029")
WORDS = st.text(CHARACTERS) | st.sampled_from(["no", "1e-4", "010", "0o17", "~", "12:30", " #", "<<", "="])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS
CONTENT = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner), max_leaves=12)


@given(st.dictionaries(WORDS, CONTENT, min_size=1))
def test_plain_content_comes_back_exactly(content):
    read = parse_yaml(write_yaml_text(content), source="t")
    assert repr(read) == repr(content)  # repr, since 1 == 1.0 == True


def test_a_failed_write_leaves_the_old_content_and_no_other_file(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "file.txt"
    write_text(path, "old")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(RunDirError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_runs_that_want_one_folder_at_one_time_get_one_each(tmp_path):
    wanted = tmp_path / "reports" / "run"
    with claimed_folder(wanted) as first, claimed_folder(wanted) as second, claimed_folder(wanted) as third:
        assert (first, second.name, third.name) == (wanted, "run-2", "run-3")
        (second / "run.yaml").touch()
    assert [path.name for path in wanted.parent.iterdir()] == ["run-2"]  # the others had nothing to keep


PLAN = Plan(
    adapters=(
        Adapter(method="lora", target="h.0.q", rank=8, scale=2.0, options=(("dora", True), ("init", "no"))),
        Adapter(method="ia3", target="h.1.mlp", options=(("n", 2), ("x", 2.0))),
    ),
    learning_rate=1e-05,
    trainable_params=4096,
)
DOCUMENT = PlanDocument(
    plan=PLAN,
    model=ModelSpec(id="org/model", revision="0012345"),
    data=DataSpec(source="trec", text_columns=("a", "b")),
    task=TaskSpec(max_steps=100),
    base_params=22_000_000,
    head_params=770,
    schedule="linear",
    seed=3,
)

options = st.dictionaries(
    WORDS, st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS
)
adapters = st.builds(
    Adapter,
    method=st.text(CHARACTERS, min_size=1),
    target=st.text(CHARACTERS, min_size=1),
    rank=st.integers(0, 4096),
    scale=st.floats(min_value=1e-6, max_value=1e6),
    options=options.map(lambda items: tuple(items.items())),
)
plans = st.builds(
    Plan,
    adapters=st.lists(adapters, max_size=4, unique_by=lambda adapter: adapter.target).map(tuple),
    learning_rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    trainable_params=st.integers(0, 10**12),
    head_factor=st.sampled_from([1.0, 0.25, 0.0625]),
)


@given(plan=plans)
@example(plan=PLAN)
def test_a_plan_comes_back_exactly(plan, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "plan.yaml"
    document = PlanDocument(**{**vars(DOCUMENT), "plan": plan})
    write_plan(path, document)
    assert repr(read_plan(path)) == repr(document)
    assert read_plan(path).plan.digest == plan.digest


def test_a_plan_is_found_in_a_run_directory(tmp_path):
    write_plan(tmp_path / "best" / "plan.yaml", DOCUMENT)
    assert read_plan(tmp_path) == read_plan(tmp_path / "best") == DOCUMENT


def test_a_folder_without_a_plan_is_refused(tmp_path):
    with pytest.raises(SpecError, match="plan"):
        read_plan(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("rank: 8", "rnak: 8", "adapters.0.rnak"),
        ("seed: 3\n", "", "seed is missing"),
        ("rank: 8", "rank: -1", "adapters.0.rank"),
        ("rank: 8", "rank: '8'", "adapters.0.rank"),
        ("scale: 2.0", "scale: .nan", "adapters.0.scale"),
        ("1.0e-05", "0", "learning_rate"),
        ("target: h.1.mlp", "target: h.0.q", "h.0.q"),
        ("schema_version: 1", "schema_version: 2", "schema_version"),
    ],
)
def test_a_plan_with_a_fault_is_refused_in_one_sentence(tmp_path, old, new, sentence):
    path = tmp_path / "plan.yaml"
    write_plan(path, DOCUMENT)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(SpecError, match=re.escape(sentence)):
        read_plan(path)
