"""Metrics of text classification: their spread, constant guesses, and the choice of a metric."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from autopeft.plugins import LabelSpace, discover
from autopeft.types import TaskSpec

PLUGIN = discover("autopeft.tasks")["text-classification"]


class Saved(nn.Module):
    """Gives saved predictions row by row; `input_ids` name the rows."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.tensor(logits, dtype=torch.float32)

    def forward(self, input_ids, **others):
        return SimpleNamespace(logits=self.logits[input_ids[:, 0]])


def measured(label_space, labels, logits, *, metric, batch_size=7):
    task = PLUGIN.fitted(TaskSpec(metric=metric), label_space)
    examples = [{"input_ids": [row], "attention_mask": [1]} for row in range(len(labels))]
    starts = range(0, len(labels), batch_size)
    batches = (task.collate(examples[i : i + batch_size], labels[i : i + batch_size], 0) for i in starts)
    return task.evaluate(Saved(logits), batches)


def test_spread_of_pseudo_values_gives_the_spread_of_the_metric():
    rng, label_space = np.random.default_rng(3), LabelSpace(kind="number", names=("score",))
    metrics_seen, errors = [], []
    for _ in range(200):
        truth = rng.normal(size=60)
        guesses = truth + rng.normal(size=60)
        seen = measured(label_space, truth.tolist(), guesses[:, None], metric="pearson", batch_size=60)
        metrics_seen.append(seen.metric)
        errors.append(np.std(seen.example_scores, ddof=1) / np.sqrt(60))
    assert np.mean(errors) == pytest.approx(np.std(metrics_seen), rel=0.15)


def test_constant_predictions_correlate_with_nothing():
    label_space = LabelSpace(kind="number", names=("score",))
    assert measured(label_space, [0.0, 1.0, 2.0], [[1.0]] * 3, metric="pearson").metric == 0.0


@pytest.mark.parametrize(
    ("counts", "metric", "n_notes"),
    [((60, 50), "accuracy", 0), ((99, 11), "accuracy", 0), ((100, 10), "macro-f1", 1)],
)
def test_uneven_classes_give_a_warning_and_macro_f1(counts, metric, n_notes):
    label_space = LabelSpace(names=("a", "b"), counts=counts)
    fitted = PLUGIN.fitted(TaskSpec(), label_space)
    assert (fitted.metric.name, len(fitted.notes)) == (metric, n_notes)
    assert PLUGIN.fitted(TaskSpec(metric="accuracy"), label_space).notes == ()


def test_texts_that_are_cut_are_noted(tokenizer):
    made = PLUGIN.encode([["good " * n] for n in (3, 9, 12)], [0, 1, 0], tokenizer, 8)
    assert ["2 of 3" in note for note in made.notes] == [True]
    assert PLUGIN.encode([["good"]], [0], tokenizer, 8).notes == ()
