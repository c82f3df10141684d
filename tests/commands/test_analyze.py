"""`autopeft analyze` on a tiny model: what it prints, what it writes, and that it writes nothing unasked."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from toys.specs import run_spec
from toys.words import toy_rows
from typer.testing import CliRunner, Result

from autopeft import commands
from autopeft.cli.app import app
from autopeft.records import DataSpec
from autopeft.store import read_plan, write_plan


@pytest.fixture
def flags(model_dir: Path, data_dir: Path) -> tuple[str, ...]:
    return ("--model", str(model_dir), "--data", str(data_dir), "--budget", "5%", "--max-examples", "32")


def analyze(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["analyze", *map(str, arguments)])


def answer_of(*arguments: object) -> dict:
    result = analyze(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_analysis_prints_at_most_80_columns_and_writes_nothing(
    flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = analyze(*flags, "--quiet")
    assert result.exit_code == 0, result.output
    lines = result.stdout.replace(flags[1], "models/tiny-bert").splitlines()
    assert [line for line in lines if len(line) > 80 and "autopeft search" not in line] == []
    for part in (
        "gradient, highest: ",
        "fisher, highest: ",
        "two halves of",
        "untested: LoRA",
    ):
        assert part in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_json_holds_everything(flags: tuple[str, ...]) -> None:
    answer = answer_of(*flags, "--scores", "fisher, parameters")
    assert [score["name"] for score in answer["scores"]] == ["fisher", "parameters"]
    assert all(len(score["values"]) == len(answer["sites"]) for score in answer["scores"])
    keys = (
        "base_model data task n_train_examples n_examples n_asked seconds peak_bytes unreachable notes budget"
    )
    assert {*keys.split(), "suggestion", "files"} <= answer.keys()
    assert answer["files"] == [] and answer["suggestion"]["tested"] is False
    share = answer["suggestion"]["trainable_params"] / answer["budget"]["base_params"]
    assert answer["suggestion"]["share_of_base"] == pytest.approx(share)
    assert "percent" not in answer["suggestion"]
    assert answer["n_examples"] <= answer["n_asked"] == 32


def test_out_leaves_scores_and_a_plan(flags: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "analysis"
    answer = answer_of(*flags, "--out", out)
    assert sorted(path.name for path in out.iterdir()) == ["sensitivity.csv", "suggestion.yaml"]
    with (out / "sensitivity.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for score in answer["scores"]:
        assert [float(row[score["name"]]) for row in rows] == score["values"]
    assert [row["site"] for row in rows] == [site["name"] for site in answer["sites"]]


def test_the_suggestion_is_a_plan_that_counts_what_it_says(flags: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "analysis"
    answer = answer_of(*flags, "--out", out)
    document = read_plan(out / "suggestion.yaml")
    assert {adapter.method for adapter in document.plan.adapters} == {"lora"}
    counted = commands.count(out / "suggestion.yaml")
    assert (
        counted.trainable_params == document.plan.trainable_params == answer["suggestion"]["trainable_params"]
    )
    assert 0 < counted.trainable_params <= answer["budget"]["max_trainable_params"]
    comments = [line for line in (out / "suggestion.yaml").read_text().splitlines() if line.startswith("#")]
    assert "UNTESTED" in comments[0]
    assert any("autopeft train --plan suggestion.yaml" in line for line in comments)
    assert any("autopeft search --model" in line and "--budget 5%" in line for line in comments)


def test_the_first_score_decides_the_suggestion_and_the_ranks_follow_it(flags: tuple[str, ...]) -> None:
    answer = answer_of(*flags, "--scores", "parameters,gradient", "--budget", "20%")
    assert answer["suggestion"]["score"] == "parameters"
    ranks = {adapter["site"]: adapter["rank"] for adapter in answer["suggestion"]["plan"]["adapters"]}
    assert max(ranks.values()) > min(ranks.values())
    scored = [
        ((site["in_features"], site["out_features"]), value, ranks.get(site["name"], 0))
        for site, value in zip(answer["sites"], answer["scores"][0]["values"], strict=True)
        if site["kind"] == "linear"
    ]
    for shape, value, rank in scored:  # among sites of one price, whoever scores more has no lower rank
        assert all(rank >= other for same, less, other in scored if same == shape and less < value)


def test_the_suggestion_is_trained_as_it_lies(flags: tuple[str, ...], tmp_path: Path) -> None:
    answer_of(*flags, "--out", tmp_path / "analysis")
    plan = tmp_path / "analysis" / "suggestion.yaml"
    plan.write_text(plan.read_text().replace("max_steps: null", "max_steps: 2"))
    done = CliRunner().invoke(app, ["train", "--plan", str(plan), "--out", str(tmp_path / "adapter")])
    assert done.exit_code == 0, done.output
    assert re.match(r"accuracy \d+\.\d % and loss \d+\.\d+ on the confirm split\n", done.stdout)


def test_the_suggestion_is_trained_on_other_data_by_the_columns_it_names(
    model_dir: Path, tmp_path: Path
) -> None:
    """Columns with usual names mislead in both files: `label` is another in every row."""
    for seed, name in enumerate(("first", "other")):
        texts, labels = toy_rows(120, seed=seed)
        rows = {"text": "a", "label": range(120), "words": texts, "mood": labels, "who": np.arange(120) // 4}
        pd.DataFrame(rows).to_csv(tmp_path / f"{name}.csv", index=False)
    named = {"text_columns": ("words",), "label_column": "mood", "group_column": "who", "max_examples": 60}
    columns = {f"data.{name}": value for name, value in named.items()}
    spec = run_spec(model_dir, tmp_path / "first.csv", max_steps=2, budget="5%", **columns)
    suggestion = commands.analyze(spec, scores=["parameters"]).suggestion
    of_the_hub = suggestion.data.model_copy(update={"source": "some/set", "config_name": "en"})
    write_plan(tmp_path / "plan.yaml", replace(suggestion, data=of_the_hub))
    other = str(tmp_path / "other.csv")
    trained = commands.train_plan(tmp_path / "plan.yaml", out=tmp_path / "adapter", data_source=other)
    assert read_plan(trained.folder / "plan.yaml").data == DataSpec(source=other, **named)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (("--scores", "gradiant"), 2, ("'gradiant'", "Did you mean 'gradient'?")),
        (("--scores", ""), 2, ("no score named ''",)),
        (("--budget", "0"), 2, ("'0'",)),
        (("--budget", "3"), 4, ("cheapest plan", "Raise --budget")),
        (("--max-examples", "0"), 2, ("--max-examples",)),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_nothing(
    change: tuple[str, str], code: int, words: tuple[str, ...], flags: tuple[str, ...], tmp_path: Path
) -> None:
    result = analyze(*flags, *change, "--out", tmp_path / "out")
    assert result.exit_code == code, result.output
    [error] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert [word for word in words if word not in error] == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("is_file", [True, False])
def test_existing_files_are_never_overwritten(is_file: bool, flags: tuple[str, ...], tmp_path: Path) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text("mine", encoding="utf-8")
    result = analyze(*flags, "--out", mine if is_file else tmp_path)
    assert result.exit_code == 2 and "--out" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.csv"] and mine.read_text() == "mine"


def test_the_suggested_search_names_the_same_settings(data_dir: Path, model_dir: Path) -> None:
    columns = {"data.text_columns": ("text",), "label_column": "label"}
    spec = run_spec(model_dir, data_dir, budget="5%", seed=3, **columns)
    command = commands.analyze(spec, scores=["parameters"]).search_command
    assert command == (
        f"autopeft search --model {model_dir} --data {data_dir} --text-column text --label-column label "
        "--budget 5% --seed 3"
    )
