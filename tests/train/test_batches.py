"""Batches are collated once, kept within a limit, and changed by nobody."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from autopeft.train import Compute, EncodedSplit
from autopeft.train.caches import Batches, DeviceCache


class CountingTask:
    """Collates numbers to batches of 8 bytes a row, and counts how often."""

    def __init__(self):
        self.n_collated = 0

    def collate(self, examples, labels, pad_token_id):
        self.n_collated += 1
        return {"input_ids": torch.tensor([example["input_ids"] for example in examples])}

    def n_terms(self, batch):
        return 10 * len(batch["input_ids"])


def make_batches(max_bytes, task=None):
    examples = tuple({"input_ids": i} for i in range(100))
    split = EncodedSplit(examples=examples, labels=(0,) * 100)
    splits = {"train": split, "search": replace(split, examples=examples[::-1])}
    return Batches(
        splits=splits,
        task=task or CountingTask(),
        pad_token_id=0,
        device=torch.device("cpu"),
        cache=DeviceCache(max_bytes=max_bytes),
    )


def test_batch_is_collated_once_for_its_split_and_rows():
    task = CountingTask()
    batches = make_batches(2**20, task)
    requests = [("train", [3, 4]), ("train", [4, 3]), ("train", (3,)), ("search", [3, 4])]
    first = [batches.get(*request) for request in requests]
    assert task.n_collated == 4
    assert [batch["input_ids"].tolist() for batch, _ in first] == [[3, 4], [4, 3], [3], [96, 95]]
    assert [n_terms for _, n_terms in first] == [20, 20, 10, 20]
    again = [batches.get(*request) for request in requests]
    assert task.n_collated == 4
    assert all(a.batch["input_ids"] is b.batch["input_ids"] for a, b in zip(first, again, strict=True))


def test_what_a_caller_takes_out_of_a_batch_is_there_for_the_next():
    batches = make_batches(2**20)
    batches.get("train", [1]).batch.pop("input_ids")
    assert "input_ids" in batches.get("train", [1]).batch


def test_kept_batches_change_no_number(make_bench, make_plan, fidelity):
    keeping, fresh = make_bench(), make_bench()
    fresh.batches.cache.max_bytes = 0
    for method in ("lora", "ia3", "lora"):
        plan = make_plan(keeping.base, method)
        first, second = (bench.measure(plan, fidelity()) for bench in (keeping, fresh))
        assert replace(first, train_seconds=0.0, eval_seconds=0.0, overhead_seconds=0.0) == replace(
            second, train_seconds=0.0, eval_seconds=0.0, overhead_seconds=0.0
        )
    assert keeping.batches.cache.n_bytes > 0 == fresh.batches.cache.n_bytes


@pytest.mark.parametrize(
    ("example", "label", "size"),
    [
        ({"input_ids": [1, 2, 3]}, 0, 3),
        ({"input_ids": [[1, 2, 3], [4]]}, 1, 6),  # two choices, padded alike
        ({"input_ids": [1, 2]}, [5, 6, 7, 8], 4),  # a completion of its own
        ({"pixel_values": torch.zeros(3, 8, 8)}, 1, 196),
    ],
    ids=["text", "choices", "completion", "image"],
)
def test_size_of_an_example_is_what_a_batch_grows_by(example, label, size):
    assert EncodedSplit(examples=(example,), labels=(label,)).sizes.tolist() == [size]


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


@pytest.mark.parametrize(
    ("compute", "n_tokens"),
    [
        (Compute(), 1024),
        (Compute(micro_batch_tokens=4096), 1024),
        (Compute(micro_batch_tokens=50), 100),
        (Compute(micro_batch_tokens=50, max_eval_tokens=30), 30),  # memory ran out before
    ],
)
def test_evaluation_takes_no_more_than_is_best_or_twice_what_training_takes(compute, n_tokens):
    assert compute.eval_tokens("cpu") == n_tokens


def spied(batches, seen):
    for batch in batches:
        seen.append(batch["input_ids"])
        yield batch


def test_nothing_is_kept_where_the_device_may_use_no_more(make_bench):
    bench = make_bench(compute=Compute(memory_bytes=1))
    assert bench.batches.cache.max_bytes == 0
    assert make_bench().batches.cache.max_bytes > 0


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
