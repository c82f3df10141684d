"""Where settings come from, which of them wins, and how a bad one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopeft.errors import SpecError, UnknownNameError
from autopeft.store import resolve_settings, whole_path
from autopeft.store.settings import parse_bytes, parse_duration


def settings(file="", *, env=None, flags=None, assign=(), folder: Path | None = None):
    config = None
    if file:
        assert folder is not None
        config = folder / "conf.yaml"
        config.write_text(file)
    return resolve_settings(config=config, env=env or {}, flags=flags or {}, assignments=assign)


def test_each_source_wins_over_the_one_before(tmp_path):
    file = "search: {trials: 1, seed: 1, score: a, space: a, seeds: 2}"
    env = {"AUTOPEFT_SEARCH_SEED": "2", "AUTOPEFT_SEARCH_SCORE": "b", "AUTOPEFT_SEARCH_SPACE": "b"}
    assign = ["search.score=c", "search.space=c"]
    spec, given_names = settings(file, env=env, assign=assign, flags={"search.space": "d"}, folder=tmp_path)
    assert (spec.search.trials, spec.search.seed, spec.search.score, spec.search.space) == (1, 2, "c", "d")
    named = {"search.trials", "search.seed", "search.score", "search.space", "search.seeds"}
    assert given_names == named


@pytest.mark.parametrize(
    ("text", "value"), [("113000", "113000"), ("300k", "300k"), ("0.5%", "0.5%"), ("1.2M", "1.2M")]
)
def test_a_budget_stays_as_written_from_any_source(tmp_path, text, value):
    resolved = [
        settings(f"budget: {{requested: {text}}}", folder=tmp_path),
        settings(env={"AUTOPEFT_BUDGET_REQUESTED": text}),
        settings(assign=[f"budget.requested={text}"]),
    ]
    assert [spec.budget.requested for spec, _ in resolved] == [value] * 3


@pytest.mark.parametrize("text", ["lora, ia3", "['lora', \"ia3\"]"])
def test_a_list_may_be_written_with_commas_or_brackets(text):
    assert settings(assign=[f"search.methods={text}"])[0].search.methods == ("lora", "ia3")


def test_text_that_looks_like_a_number_or_yaml_stays_text():
    assign = ["model.revision=0012345", "data.source=C:\\d: #1", "model.id=null", "data.label_column=no"]
    spec, _ = settings(assign=assign)
    assert (spec.model.revision, spec.data.source) == ("0012345", "C:\\d: #1")
    assert (spec.model.id, spec.data.label_column) == (None, "no")


@pytest.mark.parametrize(
    ("file", "near"),
    [
        ("search: {trails: 3}", "conf.yaml.*'search.trials'"),
        ("trials: 3", "conf.yaml.*'search.trials'"),
    ],
)
def test_an_unknown_setting_in_a_file_names_the_file_and_the_nearest(tmp_path, file, near):
    with pytest.raises(UnknownNameError, match=near):
        settings(file, folder=tmp_path)


def test_all_bad_values_are_named_at_once_with_their_place(tmp_path):
    with pytest.raises(SpecError) as caught:
        settings(
            "search: {max_time_seconds: soon}\ndata: {text_columns: [5]}",
            env={"AUTOPEFT_TASK_EPOCHS": "-1"},
            assign=["search.effort=high", "search.margin=.inf"],
            folder=tmp_path,
        )
    message = str(caught.value)
    for place in ("search.max_time_seconds", "data.text_columns.0", "conf.yaml", "AUTOPEFT_TASK_EPOCHS"):
        assert place in message
    assert "search.effort (--set)" in message and "search.margin (--set)" in message


@pytest.mark.parametrize("written", ["1e3", "1000.0", "1E+3"])
def test_a_whole_number_may_be_written_as_a_power_or_with_a_point(written, tmp_path):
    flag = resolve_settings(config=None, env={}, flags={"search.trials": written}, assignments=())[0]
    for spec in (flag, settings(f"search: {{trials: {written}}}", folder=tmp_path)[0]):
        assert spec.search.trials == 1000 and type(spec.search.trials) is int


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7m30s", 450),
        ("90s", 90),
        ("2h", 7200),
        ("0.5h", 1800),
        ("1d", 86400),
    ],
)
def test_a_duration_is_read_as_seconds(text, seconds):
    assert parse_duration(text) == seconds
    assert settings(assign=[f"search.max_time_seconds={text}"])[0].search.max_time_seconds == seconds


def test_an_empty_text_is_refused():
    with pytest.raises(SpecError, match=r"model\.id .*empty"):
        resolve_settings(config=None, env={}, flags={"model.id": ""}, assignments=())


@pytest.mark.parametrize("text", ["450", "0s", "soon", "-5m"])
def test_other_durations_are_refused(text):
    with pytest.raises(SpecError, match="7m30s"):
        parse_duration(text)


@pytest.mark.parametrize(("text", "n_workers"), [("auto", None), ("3", 3)])
def test_a_number_of_workers_may_be_left_open_by_a_word(tmp_path, text, n_workers):
    in_file = "execution: {workers: 5}"
    for source in (
        {"flags": {"execution.workers": text}},
        {"assign": [f"execution.workers={text}"]},
        {"env": {"AUTOPEFT_EXECUTION_WORKERS": text}},
    ):
        spec, names = settings(in_file, folder=tmp_path, **source)
        assert (spec.execution.workers, names) == (n_workers, {"execution.workers"})
    assert settings(f"execution: {{workers: {text}}}", folder=tmp_path)[0].execution.workers == n_workers
    with pytest.raises(SpecError, match=r"execution\.workers .*many"):
        settings(flags={"execution.workers": "many"})


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("2GiB", 2 * 2**30),
        ("500MB", 500 * 10**6),
        (".5 kib", 512),
        ("1.5tb", 15 * 10**11),
    ],
)
def test_an_amount_of_memory_is_read_as_bytes(text, n_bytes):
    assert parse_bytes(text) == n_bytes
    assert settings(flags={"execution.memory_bytes": text})[0].execution.memory_bytes == n_bytes


@pytest.mark.parametrize("text", ["16", "-1MB", "much"])
def test_other_amounts_of_memory_are_refused(text):
    with pytest.raises(SpecError, match="2GiB"):
        parse_bytes(text)


def test_a_local_model_and_data_are_absolute_and_other_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m" / "bert").mkdir(parents=True)
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).touch()

    def sources(model, data):
        flags = {"model.id": model, "data.source": data}
        spec, _ = resolve_settings(config=None, env={}, flags=flags, assignments=())
        return spec.model.id, spec.data.source

    assert sources("m/bert", "train.csv") == (str(tmp_path / "m" / "bert"), str(tmp_path / "train.csv"))
    assert sources("m/bort", "train.csv, test.csv") == (
        "m/bort",
        f"{tmp_path / 'train.csv'},{tmp_path / 'test.csv'}",
    )


def test_a_link_keeps_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0123abcd").touch()
    (tmp_path / "train.csv").symlink_to(tmp_path / "0123abcd")
    assert whole_path("train.csv") == str(tmp_path / "train.csv")
