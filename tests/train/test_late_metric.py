"""A metric of generated text is measured where it decides: in full runs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial

import pytest
from toys.bases import toy_base
from toys.tasks import make_toy, with_end_of_text

from autopeft.plugins import LabelSpace, discover
from autopeft.train import Bench, EncodedSplit
from autopeft.types import Status, TaskSpec

PLUGIN = discover("autopeft.tasks")["text-generation"]


def make_bench(tokenizer, methods, metric, kept):
    """A bench of a Llama."""
    toy = make_toy(PLUGIN, with_end_of_text(tokenizer))
    fitted = PLUGIN.fitted(TaskSpec(metric=metric), LabelSpace(kind="completion"), toy.tokenizer)
    toy.task = replace(fitted, max_new_tokens=2)
    made = toy.encoded()
    split = EncodedSplit(examples=made.examples, labels=made.labels)
    return Bench(
        base=toy_base("llama-lm", tokenizer=toy.tokenizer),
        task=toy.task,
        methods=methods,
        splits=dict.fromkeys(("train", "search", "confirm", "test"), split),
        batch_size=4,
        keep_weights=lambda plan, seed: kept / str(seed),
    )


def test_exact_match_is_generated_in_full_runs_alone(
    tokenizer, methods, make_plan, fidelity, tmp_path, monkeypatch
):
    bench = make_bench(tokenizer, methods, "exact-match", tmp_path)
    by_loss = make_bench(tokenizer, methods, "loss", tmp_path)
    plan, n_generated = make_plan(bench.base, "lora"), []
    model_type = type(bench.base.module)
    generate = model_type.generate
    monkeypatch.setattr(
        model_type, "generate", lambda *args, **kwargs: n_generated.append(1) or generate(*args, **kwargs)
    )
    early = bench.measure(plan, fidelity(train_steps=2, eval_examples=20))
    assert early.status is Status.COMPLETE and n_generated == []
    assert (early.metric, early.example_scores) == (None, ())
    assert early.loss == by_loss.measure(plan, fidelity(train_steps=2, eval_examples=20)).metric
    for split in ("confirm", "test"):
        late = bench.measure(plan, fidelity(split=split, train_steps=4, eval_examples=20))
        assert 0 <= late.metric <= 1 and len(late.example_scores) == 20
    assert len(n_generated) == 2


def test_written_texts_are_kept_with_the_weights_of_a_full_run(
    tokenizer, methods, make_plan, fidelity, tmp_path
):
    bench = make_bench(tokenizer, methods, "exact-match", tmp_path)
    run = bench.measure(make_plan(bench.base, "lora"), fidelity(split="confirm", train_steps=4))
    (file,) = tmp_path.rglob("texts.jsonl")
    texts = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [float(text["written"].strip() == text["reference"].strip()) for text in texts] == list(
        run.example_scores
    )
    decode = partial(bench.task.tokenizer.decode, skip_special_tokens=True)
    for text, example in zip(texts, bench.splits["confirm"].examples, strict=True):
        read = decode(example["input_ids"])
        assert (text["prompt"] + text["reference"]).replace(" ", "") == read.replace(" ", "")


@pytest.mark.parametrize(("metric", "score"), [(math.nan, 0.0), (0.0, math.nan)])
def test_a_metric_without_a_value_fails_the_run_by_its_name(
    tokenizer, methods, make_plan, fidelity, tmp_path, metric, score
):
    """Of a task of another package; comparisons with NaN are false."""
    bench = make_bench(tokenizer, methods, "loss", tmp_path)

    class Blank:
        def __getattr__(self, name):
            return getattr(bench.task, name)

        def evaluate(self, model, batches, *, generates=True):
            known = bench.task.evaluate(model, batches, generates=generates)
            return replace(known, metric=metric, example_scores=(score,) * len(known.example_scores))

    plan, at = make_plan(bench.base, "lora"), fidelity(train_steps=2, eval_examples=20)
    run = replace(bench, task=Blank()).measure(plan, at)
    assert (run.status, run.metric) == (Status.FAIL, None)
