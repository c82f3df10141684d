"""Questions with choices: how they are read, what is scored, and rows that cannot be used."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss
from task_toys import make_toy

from autopeft.data import load
from autopeft.errors import DataError
from autopeft.extension import discover
from autopeft.records import DataSpec

PART = discover("autopeft.tasks")["multiple-choice"]


def read(path, rows, **spec):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load(DataSpec(source=str(path), **spec), seed=0, form="multiple-choice")


def rows_of(right, n=60, **more):
    return [{"question": f"q{i}", "choices": ["yes", "no", "so"], "answer": right, **more} for i in range(n)]


@pytest.mark.parametrize("right", [1, "1", "B", "b", "no"])
def test_the_right_choice_is_told_by_number_letter_or_text(tmp_path, right):
    data = read(tmp_path / "a.jsonl", rows_of(right))
    assert set(data.train.labels) == {1}
    assert data.train.inputs[0][1:] == ("yes", "no", "so")
    assert (data.target.kind, data.label_names) == ("choice", ("A", "B", "C"))


def test_choices_may_stand_in_columns_or_in_a_record(tmp_path):
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
        ({"answer": "maybe"}, "The label 'maybe' of row 61 of train names none of its 3 choices"),
        ({"answer": 3}, "The label '3' of row 61 of train names none"),
        ({"choices": ["yes", "no"]}, "The rows have from 2 to 3 choices; all need as many"),
        ({"question": " "}, "Row 61 of train lacks its question, choices or label"),
    ],
)
def test_rows_that_cannot_be_used_are_refused(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.jsonl", [*rows_of("A"), {**rows_of("A")[0], **row}])


def test_scores_are_those_of_each_choice_beside_its_question(tokenizer):
    toy = make_toy(PART, tokenizer)
    scores = []
    for question, *choices in toy.inputs:
        pairs = [tokenizer(question, choice) for choice in choices]
        with torch.no_grad():
            own = [toy.module(input_ids=torch.tensor([[pair["input_ids"]]])).logits.item() for pair in pairs]
        scores.append(own)
    seen = toy.task.evaluate(toy.module, iter(toy.batches(6)))
    chances = torch.tensor(scores).double().softmax(-1).numpy()
    assert seen.metric == pytest.approx(accuracy_score(toy.labels, np.argmax(scores, axis=1)))
    assert seen.loss == pytest.approx(log_loss(toy.labels, chances), abs=1e-6)
    assert seen.example_scores == tuple((np.argmax(scores, axis=1) == toy.labels).astype(float))
