"""Every metric of every task is what scikit-learn, seqeval, scipy or numpy make of the predictions saved.

Predictions are saved example by example, without padding; what a task says of them must not depend on the
batch size nor on how far a batch is padded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import seqeval.metrics
import torch
import transformers
from scipy import stats
from sklearn import metrics
from toys.tasks import make_toy
from toys.words import CONTEXT

from autopeft.plugins import LabelSpace, discover
from autopeft.types import TaskSpec

TASKS = discover("autopeft.tasks")
IGNORED = -100
MAX_NEW = 4
CLASSES = LabelSpace(names=("a", "b", "c"))
SEVERAL = LabelSpace(kind="classes", names=("a", "b", "c"))
NUMBER = LabelSpace(kind="number", names=("score",))
TAGS = LabelSpace(kind="tags", names=("B-x", "I-x", "B-y", "O"))


def macro_f1(truth, guesses):
    with_rows = sorted({*truth}) if np.ndim(truth) == 1 else None  # a guessed class without rows adds no 0
    return metrics.f1_score(truth, guesses, average="macro", labels=with_rows, zero_division=0)


OF_CLASSES = {
    "accuracy": metrics.accuracy_score,
    "macro-f1": macro_f1,
    "balanced-accuracy": metrics.balanced_accuracy_score,
    "matthews": metrics.matthews_corrcoef,
}
OF_SEVERAL = {
    "micro-f1": lambda t, g: metrics.f1_score(t, g, average="micro"),
    "macro-f1": macro_f1,
    "exact-match": metrics.accuracy_score,
}
OF_NUMBERS = {
    "pearson": lambda t, g: stats.pearsonr(t, g)[0],
    "spearman": lambda t, g: stats.spearmanr(t, g)[0],
    "mean-squared-error": metrics.mean_squared_error,
    "mean-absolute-error": metrics.mean_absolute_error,
}
OF_TAGS = {"entity-f1": seqeval.metrics.f1_score, "token-accuracy": seqeval.metrics.accuracy_score}
OF_TEXTS = ("loss", "token-accuracy", "exact-match")


@dataclass
class Known:
    """A toy fitted to a metric, and what the metric and the loss of its saved predictions are."""

    toy: Any
    metric: float
    loss: float


def batches_of(toy, size, *, length):
    """Batches of a size, padded to a length beyond their longest row where one is given."""
    return [
        longer(batch, length, pad=getattr(toy.tokenizer, "pad_token_id", 0)) for batch in toy.batches(size)
    ]


def longer(batch, length, *, pad):
    if length is None or "input_ids" not in batch:
        return batch
    fillers = {"input_ids": pad, "labels": IGNORED}
    of_tokens = [name for name, value in batch.items() if name != "labels" or (
        value.ndim == 2 and not value.is_floating_point())]  # fmt: skip
    return {
        name: torch.nn.functional.pad(value, (0, length - value.shape[-1]), value=fillers.get(name, 0))
        if name in of_tokens
        else value
        for name, value in batch.items()
    }


def saved(toy):
    """(logits, labels) of each example alone, in double precision."""
    pairs = []
    with torch.no_grad():
        for batch in toy.batches(1):
            features = {name: value for name, value in batch.items() if name != "labels"}
            needs_labels = toy.task.peft_task_type == "SEQ_2_SEQ_LM"
            logits = toy.module(**(batch if needs_labels else features)).logits
            pairs.append((logits[0].double(), batch["labels"][0]))
    return pairs


def with_module(toy, n_outputs):
    """The toy's model with so many outputs."""
    config = toy.module.config
    config.num_labels = n_outputs
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        toy.module = getattr(transformers, toy.task.auto_class).from_config(config).eval()
    return toy


def labelled(name, label_space, labels, metric, tokenizer):
    toy = make_toy(TASKS[name], tokenizer)
    toy.task = TASKS[name].fitted(TaskSpec(metric=metric), label_space, toy.tokenizer)
    toy.labels = labels
    return with_module(toy, 1 if label_space.kind == "number" else len(label_space.names))


def of_classes(name, metric, tokenizer):
    toy = labelled(name, CLASSES, np.random.default_rng(0).integers(0, 3, 20).tolist(), metric, tokenizer)
    logits = np.stack([logits.numpy() for logits, _ in saved(toy)])
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    value = OF_CLASSES[metric](toy.labels, logits.argmax(axis=1))
    return Known(toy, value, metrics.log_loss(toy.labels, chances, labels=[0, 1, 2]))


def of_several(name, metric, tokenizer):
    truth = (np.random.default_rng(0).random((20, 3)) < 0.5).astype(int)
    labels = [tuple(np.flatnonzero(row).tolist()) for row in truth]
    toy = labelled(name, SEVERAL, labels, metric, tokenizer)
    logits = np.stack([logits.numpy() for logits, _ in saved(toy)])
    chances = 1 / (1 + np.exp(-logits))
    loss = -(truth * np.log(chances) + (1 - truth) * np.log(1 - chances)).mean()
    return Known(toy, OF_SEVERAL[metric](truth, (logits > 0).astype(int)), loss)


def of_numbers(name, metric, tokenizer):
    labels = np.random.default_rng(0).normal(size=20).round(3).tolist()
    toy = labelled(name, NUMBER, labels, metric, tokenizer)
    guesses = np.array([float(logits[0]) for logits, _ in saved(toy)])
    return Known(toy, OF_NUMBERS[metric](labels, guesses), metrics.mean_squared_error(labels, guesses))


def of_tags(name, metric, tokenizer):
    toy, rng = make_toy(TASKS[name], tokenizer), np.random.default_rng(0)
    toy.task = TASKS[name].fitted(TaskSpec(metric=metric), TAGS)
    toy.labels = [tuple(rng.integers(0, 4, len(row)).tolist()) for (row,) in toy.inputs]
    toy = with_module(toy, len(TAGS.names))
    truth, guesses, losses = [], [], []
    for logits, labels in saved(toy):
        counts = labels != IGNORED
        losses += (-logits.log_softmax(-1)[counts, labels[counts]]).tolist()
        truth.append([TAGS.names[tag] for tag in labels[counts]])
        guesses.append([TAGS.names[tag] for tag in logits.argmax(-1)[counts]])
    return Known(toy, OF_TAGS[metric](truth, guesses), np.mean(losses))


def of_texts(name, metric, tokenizer):
    toy = make_toy(TASKS[name], tokenizer)
    toy.inputs = [(" ".join(text.split()[:4]),) for (text,) in toy.inputs]
    fitted = TASKS[name].fitted(TaskSpec(metric=metric), LabelSpace(kind="completion"), tokenizer)
    toy.task = replace(fitted, max_new_tokens=MAX_NEW)
    written = [greedy(toy, ids) for ids in prompts(toy)]
    # Half of the true answers are what the model writes, so that some are right and some are not.
    toy.labels = [
        text if row % 2 and text else label
        for row, (text, label) in enumerate(zip(written, toy.labels, strict=True))
    ]
    losses, hits = [], []
    for logits, labels in saved(toy):
        if name == "text-generation":
            logits, labels = logits[:-1], labels[1:]
        counts = labels != IGNORED
        losses += (-logits.log_softmax(-1)[counts, labels[counts]]).tolist()
        hits += (logits.argmax(-1)[counts] == labels[counts]).tolist()
    right = [text == label for text, label in zip(written, toy.labels, strict=True)]
    assert 0 < np.mean(right) < 1
    loss = math.fsum(losses) / len(losses)
    values = {"loss": loss, "token-accuracy": np.mean(hits)}
    return Known(toy, {**values, "exact-match": np.mean(right)}[metric], loss)


def prompts(toy):
    """The ids of each prompt, as the task gives them to the model."""
    for batch in toy.batches(1):
        n = (
            None
            if toy.task.name != "text-generation"
            else int((batch["labels"][0] != IGNORED).int().argmax())
        )
        yield batch["input_ids"][:, :n]


@torch.no_grad()
def greedy(toy, ids):
    """The likeliest next token again and again, without a cache, as text."""
    is_decoder_alone = toy.task.name == "text-generation"
    written = ids[0].tolist() if is_decoder_alone else [toy.module.config.decoder_start_token_id]
    n_before, ends = len(written), {toy.module.config.eos_token_id, toy.tokenizer.eos_token_id}
    for _ in range(MAX_NEW):
        made = torch.tensor([written])
        given = {"input_ids": made} if is_decoder_alone else {"input_ids": ids, "decoder_input_ids": made}
        written.append(int(toy.module(**given).logits[0, -1].argmax()))
        if written[-1] in ends:
            break
    return toy.tokenizer.decode(written[n_before:], skip_special_tokens=True).strip()


CASES = [
    *((of_classes, "text-classification", metric) for metric in OF_CLASSES),
    *((of_several, "text-classification", metric) for metric in OF_SEVERAL),
    *((of_numbers, "text-classification", metric) for metric in OF_NUMBERS),
    *((of_classes, "image-classification", metric) for metric in OF_CLASSES),
    *((of_several, "image-classification", metric) for metric in OF_SEVERAL),
    *((of_tags, "token-classification", metric) for metric in OF_TAGS),
    *((of_texts, "text-generation", metric) for metric in OF_TEXTS),
    *((of_texts, "text2text-generation", metric) for metric in OF_TEXTS),
]


@pytest.mark.parametrize(
    ("make", "name", "metric"),
    CASES,
    ids=[f"{name}-{make.__name__}-{metric}" for make, name, metric in CASES],
)
def test_metric_is_that_of_the_saved_predictions_at_every_batch_size_and_padding(
    make, name, metric, tokenizer
):
    known = make(name, metric, tokenizer)
    for size, length in ((1, None), (3, None), (100, None), (1, CONTEXT), (3, CONTEXT), (100, CONTEXT)):
        batches = batches_of(known.toy, size, length=length)
        seen = known.toy.task.evaluate(known.toy.module, iter(batches))
        at = f"batches of {size}, padded to {length}"
        assert seen.metric == pytest.approx(known.metric, abs=1e-6, rel=1e-6), at
        assert seen.loss == pytest.approx(known.loss, abs=1e-6, rel=1e-6), at
