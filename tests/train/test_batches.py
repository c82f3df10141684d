"""Sizes of examples, of evaluation batches, and the modes of modules in training."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from toys.bases import toy_base
from toys.tasks import with_end_of_text

from autopeft.data import Split
from autopeft.plugins import LabelSpace, discover
from autopeft.train import Compute, EncodedSplit, encode_split
from autopeft.types import TaskSpec


@pytest.mark.parametrize(
    ("example", "label", "size"),
    [
        ({"input_ids": [1, 2, 3]}, 0, 3),
        ({"input_ids": [1, 2]}, [5, 6, 7, 8], 4),  # a completion of its own
        ({"pixel_values": torch.zeros(3, 8, 8)}, 1, 196),
    ],
    ids=["text", "completion", "image"],
)
def test_size_of_an_example_is_what_a_batch_grows_by(example, label, size):
    assert EncodedSplit(examples=(example,), labels=(label,)).sizes.tolist() == [size]


def test_rows_whose_completions_lose_their_end_are_left_out(tokenizer):
    words, base = with_end_of_text(tokenizer), toy_base("llama-lm")
    answers = tuple("good fine bad dull" if i % 10 == 0 else "bad" for i in range(30))
    rows = Split(name="train", inputs=(("the food",),) * 30, labels=answers)
    plugin = discover("autopeft.tasks")["text-generation"]
    task = plugin.fitted(TaskSpec(), LabelSpace(kind="completion"), words)
    base.tokenizer = words
    split = encode_split(rows, base=base, task=task, max_length=5)
    assert split.rows == tuple(row for row in range(30) if row % 10)
    assert len(split.examples) == len(split.labels) == 27


def test_evaluation_batches_hold_as_many_tokens_as_is_allowed(make_bench, bert):
    bench = make_bench(base=bert)
    sizes = bench.splits["search"].sizes
    seen = []
    task = SimpleNamespace(
        metric=bench.task.metric,
        collate=bench.task.collate,
        n_terms=bench.task.n_terms,
        evaluate=lambda model, batches, **given: bench.task.evaluate(model, spied(batches, seen), **given),
    )
    narrow = replace(bench, task=task, compute=Compute(max_eval_tokens=60))
    evaluation = narrow.evaluate(bert.module, "search")
    assert max(ids.numel() for ids in seen) <= 60
    assert len(seen) < len(sizes) / 2
    assert evaluation.example_scores == bench.evaluate(bert.module, "search").example_scores


def spied(batches, seen):
    for batch in batches:
        seen.append(batch["input_ids"])
        yield batch


@pytest.mark.parametrize(("adapters", "body_trains"), [((), False), ("lora", True)])
def test_body_below_a_head_alone_is_without_dropout(
    adapters, body_trains, make_base, make_bench, make_plan, fidelity
):
    bench, modes = make_bench(base=make_base("bert", dropout=0.1)), []
    layer, dropout = bench.base.module.bert.encoder.layer[0], bench.base.module.dropout
    bench.head_rates  # noqa: B018, measured once on the base model
    dropout.register_forward_pre_hook(lambda module, args: modes.append((layer.training, module.training)))
    assert bench.measure(make_plan(bench.base, adapters), fidelity()).error is None
    assert set(modes) == {(body_trains, True), (False, False)}  # training, evaluation
