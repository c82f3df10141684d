"""`autopeft analyze` on a tiny model: its output and its files."""

from __future__ import annotations

import csv
import json

import pytest
from toys.commands import run
from toys.folders import word_tokenizer
from toys.topologies import build
from toys.words import toy_rows


@pytest.fixture
def flags(model_dir, data_dir):
    return ("--model", str(model_dir), "--data", str(data_dir), "--max-examples", "32")


def answer_of(*arguments):
    result = run("analyze", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_json_holds_everything(flags):
    answer = answer_of(*flags, "--scores", "fisher, parameters")
    assert [score["name"] for score in answer["scores"]] == ["fisher", "parameters"]
    assert all(len(score["values"]) == len(answer["targets"]) for score in answer["scores"])
    keys = "base_model data task n_train_examples n_examples n_asked seconds peak_bytes unreachable notes"
    assert {*keys.split(), "files"} <= answer.keys() and answer["files"] == []
    assert answer["n_examples"] <= answer["n_asked"] == 32


def test_out_leaves_scores(flags, tmp_path):
    out = tmp_path / "analysis"
    answer = answer_of(*flags, "--out", out)
    assert sorted(path.name for path in out.iterdir()) == ["sensitivity.csv"]
    with (out / "sensitivity.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for score in answer["scores"]:
        assert [float(row[score["name"]]) for row in rows] == score["values"]
    assert [row["target"] for row in rows] == [target["name"] for target in answer["targets"]]


@pytest.mark.parametrize("is_file", [True, False])
def test_existing_files_are_never_overwritten(is_file, flags, tmp_path):
    mine = tmp_path / "mine.csv"
    mine.write_text("mine", encoding="utf-8")
    result = run("analyze", *flags, "--out", mine if is_file else tmp_path)
    assert result.exit_code == 2 and "--out" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.csv"] and mine.read_text() == "mine"


def test_routing_is_that_of_the_train_rows(tmp_path, flags):
    build("mixtral", device="cpu").save_pretrained(tmp_path)
    tokenizer = word_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    rows = [{"prompt": text, "completion": text.split()[0]} for text in toy_rows(60, seed=0)[0]]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    moe = ("--model", tmp_path, "--data", tmp_path / "rows.jsonl", "--task", "text-generation")
    routing = answer_of(*moe)["routing"]
    assert [len(counts) for counts in routing.values()] == [4, 4]
    n_tokens = {sum(counts) / 2 for counts in routing.values()}  # two experts for each token
    lengths = [len(tokenizer(row["prompt"] + row["completion"]).input_ids) for row in rows]
    assert len(n_tokens) == 1 and 20 * min(lengths) < n_tokens.pop() <= sum(lengths) + len(rows)
    shown = run("analyze", *moe)
    assert "model.layers.1.mlp.experts" in shown.stdout and "quarter" in shown.stdout
    assert answer_of(*flags)["routing"] == {}
