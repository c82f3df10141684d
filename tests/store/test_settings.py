"""Where settings come from, which of them wins, and how a bad one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopeft.errors import SpecError, UnknownNameError
from autopeft.store import resolve_settings, whole_path
from autopeft.store.settings import parse_bytes, parse_duration


def resolved(file="", *, folder: Path | None = None, **sources):
    """The settings of a file with this text, an environment and flags."""
    if folder is not None:
        sources["config"] = folder / "conf.yaml"
        sources["config"].write_text(file)
    return resolve_settings(**sources)


def test_each_source_wins_over_the_one_before(tmp_path):
    (tmp_path / "conf.yaml").write_text("search: {trials: 1, seed: 1, score: a, space: a, seeds: 2}")
    spec = resolve_settings(
        config=tmp_path / "conf.yaml",
        env={"AUTOPEFT_SEARCH_SEED": "2", "AUTOPEFT_SEARCH_SCORE": "b", "AUTOPEFT_SEARCH_SPACE": "b"},
        flags={"search.space": "c"},
    )
    assert (spec.search.trials, spec.search.seed, spec.search.score, spec.search.space) == (1, 2, "b", "c")
    assert spec.explicit == {f"search.{name}" for name in ("trials", "seed", "score", "space", "seeds")}


@pytest.mark.parametrize("text", ["113000", "300k", "0.5%", "1.2M"])
def test_a_budget_stays_as_written_from_any_source(tmp_path, text):
    specs = [
        resolved(f"budget: {{requested: {text}}}", folder=tmp_path),
        resolved(env={"AUTOPEFT_BUDGET_REQUESTED": text}),
        resolved(flags={"budget.requested": text}),
    ]
    assert [spec.budget.requested for spec in specs] == [text] * 3


@pytest.mark.parametrize("text", ["lora, ia3", "['lora', \"ia3\"]"])
def test_a_list_may_be_written_with_commas_or_brackets(text):
    assert resolved(flags={"search.methods": text}).search.methods == ("lora", "ia3")


def test_no_list_is_an_empty_list(tmp_path):
    assert resolved("search: {methods: null}", folder=tmp_path).search.methods == ()


def test_text_that_looks_like_a_number_or_yaml_stays_text():
    texts = {"MODEL_REVISION": "0012345", "DATA_SOURCE": "C:\\d: #1", "DATA_LABEL_COLUMN": "no"}
    spec = resolved(env={f"AUTOPEFT_{name}": text for name, text in texts.items()})
    assert (spec.model.revision, spec.data.source) == ("0012345", "C:\\d: #1")
    assert spec.data.label_column == "no"


@pytest.mark.parametrize("file", ["search: {trails: 3}", "trials: 3"])
def test_an_unknown_setting_in_a_file_names_the_file_and_the_nearest(tmp_path, file):
    with pytest.raises(UnknownNameError, match=r"conf.yaml.*'search.trials'"):
        resolved(file, folder=tmp_path)


def test_all_bad_values_are_named_at_once_with_their_place(tmp_path):
    with pytest.raises(SpecError) as caught:
        resolved(
            "search: {max_time_seconds: soon}\ndata: {text_columns: [5]}",
            env={"AUTOPEFT_TASK_EPOCHS": "-1"},
            flags={"model.id": "", "search.effort": "high", "search.margin": "inf"},
            folder=tmp_path,
        )
    message = str(caught.value)
    for place in ("search.max_time_seconds", "data.text_columns.0", "conf.yaml", "AUTOPEFT_TASK_EPOCHS"):
        assert place in message
    assert "search.effort (--effort)" in message and "search.margin (--margin)" in message
    assert "model.id (--model)" in message


@pytest.mark.parametrize("written", ["1e3", "1000.0", "1E+3"])
def test_a_whole_number_may_be_written_as_a_power_or_with_a_point(written, tmp_path):
    in_file = resolved(f"search: {{trials: {written}}}", folder=tmp_path)
    for spec in (resolved(flags={"search.trials": written}), in_file):
        assert spec.search.trials == 1000 and type(spec.search.trials) is int


@pytest.mark.parametrize(
    ("text", "seconds"), [("7m30s", 450), ("90s", 90), ("2h", 7200), ("0.5h", 1800), ("1d", 86400)]
)
def test_a_duration_is_read_as_seconds(text, seconds):
    assert parse_duration(text) == seconds
    assert resolved(flags={"search.max_time_seconds": text}).search.max_time_seconds == seconds


@pytest.mark.parametrize("text", ["450", "0s", "soon", "-5m"])
def test_other_durations_are_refused(text):
    with pytest.raises(SpecError, match="7m30s"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("2GiB", 2 * 2**30), ("500MB", 500 * 10**6), (".5 kib", 512), ("1.5tb", 15 * 10**11)],
)
def test_an_amount_of_memory_is_read_as_bytes(text, n_bytes):
    assert parse_bytes(text) == n_bytes
    assert resolved(flags={"execution.memory_bytes": text}).execution.memory_bytes == n_bytes


@pytest.mark.parametrize("text", ["16", "-1MB", "much"])
def test_other_amounts_of_memory_are_refused(text):
    with pytest.raises(SpecError, match="2GiB"):
        parse_bytes(text)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The home and the current folder, with files, a run, and a folder that is called like a space."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for name in ("run", "default", "bert"):
        Path(name).mkdir()
    for name in ("mine.yaml", "train.csv", "test.csv"):
        Path(name).touch()
    return tmp_path


@pytest.mark.parametrize("prefix", ["", "./", "~/"])
def test_paths_serve_in_any_folder(here, prefix):
    names = {"search.space": "mine.yaml", "search.baseline": "run", "model.id": "bert"}
    spec = resolved(flags={name: prefix + value for name, value in names.items()})
    assert spec.search.space == str(here / "mine.yaml")
    assert (spec.search.baseline, spec.model.id) == (str(here / "run"), str(here / "bert"))


def test_several_files_are_absolute_and_other_names_stay(here):
    assert whole_path("train.csv, test.csv") == f"{here / 'train.csv'},{here / 'test.csv'}"
    assert whole_path("m/bort") == "m/bort"
    assert whole_path("default") == str(here / "default")
    assert resolved(flags={"search.space": "default"}).search.space == "default"


def test_the_folder_to_write_to_may_lie_at_home(here):
    assert resolved(flags={"output.out": "~/new"}).output.out == str(here / "new")
    assert resolved(env={"AUTOPEFT_OUTPUT_OUT": "~/new"}).output.out == str(here / "new")
    assert resolved(flags={"output.out": "new"}).output.out == "new"  # a run may be moved


def test_a_link_keeps_its_name(here):
    Path("link.csv").symlink_to(here / "train.csv")
    assert whole_path("link.csv") == str(here / "link.csv")
