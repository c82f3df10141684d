"""Outputs of frozen layers, shared by short runs: the same measurements for less work."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
import torch
from toys.tasks import TOYS, make_toy, with_end_of_text

from autopeft.extension import discover
from autopeft.model import BaseModel
from autopeft.records import Status
from autopeft.train import Bench, Compute, EncodedSplit
from autopeft.train.pausing import read


class NoOutputs:
    """Stands for outputs of frozen layers where nothing is skipped."""

    used_by = staticmethod(contextlib.nullcontext)

    def note(self, *arguments):
        pass

    def expect(self, *arguments):
        pass


@pytest.fixture
def make_pair(make_base, make_bench, tmp_path):
    """A function: architecture -> a bench as shipped, and the same bench without skipping."""

    def make(architecture, *, dropout=0.0, dtype="float32", **settings):
        benches = []
        for name in ("skipping", "plain"):
            settings["under_way"] = lambda plan, fidelity, name=name: tmp_path / name / plan.digest
            base = make_base(architecture, dropout=dropout, dtype=dtype)
            benches.append(make_bench(base=base, full_steps=25, **settings))
        vars(benches[1])["frozen_outputs"] = NoOutputs()
        return benches

    return make


def plans_of(base, make_plan):
    """Plans that train in the top layer alone, everywhere, in what feeds the layers too, and the head."""
    top = max(site.layer for site in base.sites if site.layer is not None)
    highest = {site.name for site in base.sites if site.layer == top}
    outside = {site.name for site in base.sites if site.layer is None and "pooler" not in site.name}
    lora = [a for a in make_plan(base, "lora").adapters if a.site in highest]
    norms = [a for a in make_plan(base, "ln_tuning").adapters if a.site in highest | outside]
    top_plans = [make_plan(base, lora, learning_rate=rate) for rate in (0.01, 0.02)]
    norm_plans = [make_plan(base, norms, learning_rate=rate) for rate in (0.03, 0.1)]
    return [*top_plans, make_plan(base, "lora"), *norm_plans, *heads(base, make_plan)]


def heads(base, make_plan):
    return [make_plan(base, (), learning_rate=rate) for rate in (0.1, 0.03)]


def measured(bench, plans, fidelity, **settings):
    found = [bench.measure(plan, fidelity(**settings)) for plan in plans]
    assert [(m.status, m.error) for m in found] == [(Status.COMPLETE, None)] * len(plans)
    return [replace(m, train_seconds=0.0, eval_seconds=0.0, overhead_seconds=0.0) for m in found]


def runs_of(layer):
    """A list that grows by one for each time that the inside of a layer of a base model runs."""
    runs = []
    inner = next(child for child in layer.modules() if not list(child.children()))
    inner.register_forward_pre_hook(lambda module, args: runs.append(1))
    return runs


BY_DAY = ("bert", 0.1, "bfloat16", 40), ("llama", 0.0, "float32", None)
PLACES = [
    pytest.param(*case, marks=() if case in BY_DAY else pytest.mark.nightly)
    for place in [("bert", 0.0), ("bert", 0.1), ("gpt2", 0.0), ("llama", 0.0)]
    for numbers in [("float32", None), ("bfloat16", 40)]
    for case in [(*place, *numbers)]
]


@pytest.mark.parametrize(("architecture", "dropout", "dtype", "micro_batch_tokens"), PLACES)
def test_short_runs_are_the_same_bits_with_and_without_skipping(
    architecture, dropout, dtype, micro_batch_tokens, make_pair, make_plan, fidelity
):
    compute = Compute(micro_batch_tokens=micro_batch_tokens)
    skipping, plain = make_pair(architecture, dropout=dropout, dtype=dtype, compute=compute)
    plans = plans_of(skipping.base, make_plan)
    seen = [measured(bench, plans, fidelity, train_steps=10) for bench in (skipping, plain)]
    assert seen[0] == seen[1]
    states = [read(bench.under_way(plans[0], None)) for bench in (skipping, plain)]
    assert states[0].position.step == 8
    assert states[0].tensors.keys() == states[1].tensors.keys()
    assert all(torch.equal(states[0].tensors[name], states[1].tensors[name]) for name in states[0].tensors)


@pytest.mark.parametrize("name", TOYS)
def test_every_task_is_measured_the_same_with_and_without_skipping(
    name, tokenizer, methods, make_plan, fidelity
):
    toy = make_toy(discover("autopeft.tasks")[name], with_end_of_text(tokenizer))
    base = BaseModel(toy.module, toy.tokenizer, name="toy", untrained=frozenset())
    made = toy.encoded()
    splits = dict.fromkeys(("train", "search"), EncodedSplit(examples=made.examples, labels=made.labels))
    fields = {"base": base, "task": toy.task, "methods": methods, "splits": splits, "batch_size": 8}
    skipping, plain = Bench(**fields), Bench(**fields)
    vars(plain)["frozen_outputs"] = NoOutputs()
    plans = [plan for plan in plans_of(base, make_plan) if plan.adapters or base.head_names]
    seen = [measured(bench, plans, fidelity, eval_examples=20) for bench in (skipping, plain)]
    assert seen[0] == seen[1]
    assert skipping.frozen_outputs.cache.n_bytes > 0


def test_lower_layer_runs_once_for_a_batch_of_all_plans(make_pair, make_plan, fidelity):
    bench, _ = make_pair("bert")
    first, second, everywhere, *_ = plans_of(bench.base, make_plan)
    bench.head_rates  # noqa: B018, measured once on the base model
    runs = runs_of(bench.base.module.bert.encoder.layer[0])
    measured(bench, [first], fidelity)
    n_proofs = 2  # one in training and one in evaluation
    assert len(runs) == 6 + 1 + n_proofs
    runs.clear()
    measured(bench, [second, *heads(bench.base, make_plan)], fidelity)
    assert len(runs) == 2  # the heads are another kind of plan, and are proven too
    runs.clear()
    measured(bench, [everywhere], fidelity)
    assert len(runs) == 6 + 1


def test_dropout_below_leaves_the_skipping_to_evaluation(make_pair, make_plan, fidelity):
    bench, _ = make_pair("bert", dropout=0.1)
    first, second, *_ = plans_of(bench.base, make_plan)
    measured(bench, [first], fidelity)
    runs = runs_of(bench.base.module.bert.encoder.layer[0])
    measured(bench, [second], fidelity)
    assert len(runs) == 6


def test_confirmation_keeps_nothing(make_pair, make_plan, fidelity):
    bench, _ = make_pair("bert")
    measured(bench, heads(bench.base, make_plan), fidelity, split="confirm")
    assert bench.frozen_outputs.cache.n_bytes == 0


def test_head_alone_trains_on_constant_features_with_its_own_dropout(task, make_pair, make_plan, fidelity):
    bench, _ = make_pair("bert", dropout=0.1)
    modes = []
    layer, dropout = bench.base.module.bert.encoder.layer[0], bench.base.module.dropout
    dropout.register_forward_pre_hook(lambda module, args: modes.append((layer.training, module.training)))
    bench.head_rates  # noqa: B018, measured once on the base model
    modes.clear()
    measured(bench, heads(bench.base, make_plan)[:1], fidelity)
    assert set(modes) == {(False, True), (False, False)}  # training, evaluation
    modes.clear()
    measured(bench, [make_plan(bench.base, "lora")], fidelity)
    assert set(modes) == {(True, True), (False, False)}


def test_plan_fits_though_the_trial_of_skipping_does_not(make_pair, make_plan, fidelity):
    starved, plain = make_pair("bert")
    task = starved.task

    class OutOfMemoryInTrial:
        def __getattr__(self, name):
            return getattr(task, name)

        def loss(self, model, batch):
            if len(batch["labels"]) <= 2:  # the rows of a trial
                raise torch.OutOfMemoryError("CUDA out of memory")
            return task.loss(model, batch)

    plans = plans_of(starved.base, make_plan)
    seen = measured(plain, plans, fidelity)
    assert measured(replace(starved, task=OutOfMemoryInTrial()), plans, fidelity) == seen
    assert starved.compute.of(plans[0]) == Compute()
