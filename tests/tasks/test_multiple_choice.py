"""Questions with choices: how they are read, what is scored, and rows that cannot be used."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss
from toys.tasks import make_toy

from autopeft.data import load, read_choices
from autopeft.errors import DataError
from autopeft.plugins import discover
from autopeft.types import DataSpec

PLUGIN = discover("autopeft.tasks")["multiple-choice"]


def read(path, rows, **spec):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load(DataSpec(source=str(path), **spec), seed=0, read_rows=read_choices)


def rows_of(right, n=60, **more):
    return [{"question": f"q{i}", "choices": ["yes", "no", "so"], "answer": right, **more} for i in range(n)]


@pytest.mark.parametrize("right", [1, "1", "B", "b", "no"])
def test_the_right_choice_is_a_number_a_letter_or_a_text(tmp_path, right):
    data = read(tmp_path / "a.jsonl", rows_of(right))
    assert set(data.train.labels) == {1}
    assert data.train.inputs[0][1:] == ("yes", "no", "so")
    assert (data.label_space.kind, data.label_names) == ("choice", ("A", "B", "C"))


def test_choices_may_be_in_columns_or_in_a_record(tmp_path):
    rows = [{"sent1": f"q{i}", "a": "x", "b": "y", "label": i % 2} for i in range(60)]
    named = read(tmp_path / "a.jsonl", rows, text_columns=("sent1", "a", "b"))
    assert named.text_columns == ("sent1", "a", "b") and set(named.train.labels) == {0, 1}
    rows = [
        {"question": f"q{i}", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"}
        for i in range(60)
    ]
    assert set(read(tmp_path / "b.jsonl", rows).train.labels) == {1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "maybe"}, "maybe"),
        ({"choices": ["yes", "no"]}, "choices"),
        ({"question": " "}, "row 61"),
    ],
)
def test_rows_that_cannot_be_used_are_refused(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.jsonl", [*rows_of("A"), {**rows_of("A")[0], **row}])


def mmlu(answers, *, choices=("4", "2", "0", "1")):
    return [{"question": f"q{i}", "choices": list(choices), "answer": a} for i, a in enumerate(answers)]


def by_question(data):
    """Question -> the index of its right choice, over all splits."""
    splits = (data.train, data.search, data.confirm, data.test)
    return {row[0]: label for s in splits for row, label in zip(s.inputs, s.labels, strict=True)}


@pytest.mark.parametrize("as_written", [int, str])
def test_numbers_that_are_also_texts_of_choices_are_indices(tmp_path, as_written):
    answers = [i % 3 for i in range(60)]  # 0, 1 and 2 are texts of choices 2, 3 and 1
    data = read(tmp_path / "a.jsonl", mmlu([as_written(answer) for answer in answers]))
    assert by_question(data) == {f"q{i}": answer for i, answer in enumerate(answers)}


def test_one_reading_holds_for_the_whole_column_and_every_part(tmp_path):
    """All labels of train could be indices; the 7 in test shows that they are texts."""
    (tmp_path / "set").mkdir()
    for part, answers in {"train": ["2", "1", "0"] * 20, "test": ["7"]}.items():
        rows = [row | {"question": f"{part} {i}"} for i, row in enumerate(mmlu(answers, choices="7201"))]
        (tmp_path / "set" / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load(DataSpec(source=str(tmp_path / "set")), seed=0, read_rows=read_choices)
    expected = {f"train {i}": (1, 3, 2)[i % 3] for i in range(60)} | {"test 0": 0}
    assert by_question(data) == expected


def test_letters_that_are_also_texts_of_choices_are_letters(tmp_path):
    data = read(tmp_path / "a.jsonl", mmlu(["A", "B"] * 30, choices="BAC"))
    assert by_question(data) == {f"q{i}": i % 2 for i in range(60)}


def test_labels_that_a_record_gives_its_choices_are_read_as_its_own(tmp_path):
    """ARC numbers the choices of some questions from 1."""
    keys_of_rows = [list("ABC") if i % 2 else list("123") for i in range(60)]
    rows = [
        {"question": f"q{i}", "choices": {"text": ["x", "y", "z"], "label": keys}, "answerKey": keys[i % 3]}
        for i, keys in enumerate(keys_of_rows)
    ]
    assert by_question(read(tmp_path / "a.jsonl", rows)) == {f"q{i}": i % 3 for i in range(60)}


def test_declared_classes_are_indices_whatever_their_names(tmp_path):
    label = datasets.ClassLabel(names=["D", "C", "B", "A"])
    features = {"sent1": datasets.Value("string"), "label": label}
    features |= {f"ending{i}": datasets.Value("string") for i in range(4)}
    rows = [{"sent1": f"q{i}", "label": i % 4} | {f"ending{k}": f"e{k}" for k in range(4)} for i in range(60)]
    train = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    hidden = [row | {"sent1": f"t{i}", "label": -1} for i, row in enumerate(rows)]
    test = datasets.Dataset.from_list(hidden, features=datasets.Features(features))
    datasets.DatasetDict(train=train, test=test).save_to_disk(str(tmp_path / "swag"))
    columns = ("sent1", *(f"ending{k}" for k in range(4)))
    data = load(DataSpec(source=str(tmp_path / "swag"), text_columns=columns), seed=0, read_rows=read_choices)
    assert by_question(data) == {f"q{i}": i % 4 for i in range(60)}


@pytest.mark.parametrize("blank", ["", -1, "-1", None])
def test_part_without_labels_is_left_out_and_such_rows_of_train_dropped(tmp_path, blank):
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mmlu(["A"] * 60)))
    unlabelled = [row | {"question": f"t{i}"} for i, row in enumerate(mmlu([blank] * 9))]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in unlabelled))
    data = load(DataSpec(source=str(tmp_path)), seed=0, read_rows=read_choices)
    assert data.test.inputs == () and len(by_question(data)) == 60
    mixed = read(tmp_path / "b.jsonl", mmlu([*["A"] * 60, None, ""]))
    assert len(by_question(mixed)) == 60


def test_scores_are_those_of_each_choice_with_its_question(tokenizer):
    toy = make_toy(PLUGIN, tokenizer)
    scores = []
    for question, *choices in toy.inputs:
        pairs = [tokenizer(question, choice) for choice in choices]
        with torch.no_grad():
            logits = [toy.module(input_ids=torch.tensor([[pair["input_ids"]]])).logits for pair in pairs]
        scores.append([score.item() for score in logits])
    seen = toy.task.evaluate(toy.module, iter(toy.batches(6)))
    chances = torch.tensor(scores).double().softmax(-1).numpy()
    assert seen.metric == pytest.approx(accuracy_score(toy.labels, np.argmax(scores, axis=1)))
    assert seen.loss == pytest.approx(log_loss(toy.labels, chances), abs=1e-6)
    assert seen.example_scores == tuple((np.argmax(scores, axis=1) == toy.labels).astype(float))
