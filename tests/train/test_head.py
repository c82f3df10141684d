"""The task head: its first values, its learning rates, and numbers of any mean and spread as targets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from toys.specs import run_spec
from toys.words import toy_rows

from autopeft.model import BaseModel
from autopeft.setup.build import prepare
from autopeft.train.rates import head_layers, head_rates, input_rms, parameter_groups
from autopeft.types import Status

TINY = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 50,
}


@pytest.fixture
def measured(model_dir, tmp_path, make_plan, fidelity):
    """A function: factor and offset of numbers, and steps -> LoRA of rank 2, measured on them."""

    def measured(factor, offset, n_steps):
        texts, labels = toy_rows(120, seed=3)
        noise = np.random.default_rng(0).normal(size=len(labels))
        numbers = factor * (np.array(labels) + 0.3 * noise) + offset
        rows = [f"{text},{float(number)}" for text, number in zip(texts, numbers, strict=True)]
        table = tmp_path / f"numbers{factor}.csv"
        table.write_text("\n".join(["text,score", *rows]), encoding="utf-8")
        kind = {"data.label_column": "score", "data.label_kind": "number"}
        spec = run_spec(model_dir, table, batch_size=16, **kind)
        bench = prepare(spec).bench
        full = fidelity(split="confirm", train_steps=n_steps, eval_examples=20)
        return bench.measure(make_plan(bench.base, "lora"), full)

    return measured


def test_numbers_are_learned_alike_whatever_they_are_measured_in(measured):
    """y and 40 y + 900 are the same task; the clipping of gradients makes a difference that grows."""
    plain, scaled = measured(1.0, 0.0, 4), measured(40.0, 900.0, 4)
    assert plain.status is scaled.status is Status.COMPLETE
    assert scaled.loss == pytest.approx(plain.loss, rel=0.02)
    assert scaled.metric == pytest.approx(plain.metric, abs=0.02)
    assert measured(40.0, 900.0, 100).metric > 0.5  # and they are learned


def test_head_starts_at_the_mean_of_the_numbers(bert, attach, make_plan):
    bert.scale_output_to(mean=210.0, std=6.0)
    with attach(bert, make_plan(bert, "lora"), seed=1) as model:
        head = model.get_base_model().classifier.modules_to_save["default"]
        assert (head.bias == 210.0).all()
        assert head.weight.std().item() == pytest.approx(6 * bert.module.config.initializer_range, rel=0.4)
    assert (bert.module.classifier.bias == 210.0).all()  # the sensitivity is measured through it


@pytest.mark.parametrize(
    ("name", "config", "output"),
    [
        ("BertForSequenceClassification", transformers.BertConfig(**TINY), "classifier"),
        ("RobertaForSequenceClassification", transformers.RobertaConfig(**TINY), "classifier.out_proj"),
        (
            "DistilBertForSequenceClassification",
            transformers.DistilBertConfig(dim=16, hidden_dim=32, n_layers=1, n_heads=2, vocab_size=50),
            "classifier",
        ),
    ],
)
def test_output_layer_is_drawn_for_every_seed_and_set_apart(name, config, output, make_plan, attach):
    """Also where a model in memory brings its head along, and where the pooler is trained beside it."""
    module = getattr(transformers, name)(config)
    pooler = frozenset(n for n in module.state_dict() if ".pooler." in n)
    base = BaseModel(module, None, name=name, untrained=pooler)
    assert base.output_layer == output
    drawn = []
    for seed in (0, 1):
        with attach(base, make_plan(base), seed=seed) as model:
            state = {n: p for n, p in model.named_parameters() if p.requires_grad}
            of_output = [
                n for n in state if n.replace(".modules_to_save.default", "").endswith(f".{output}.weight")
            ]
            drawn += [state[n].detach().clone() for n in of_output]
    assert not torch.equal(*drawn)


def test_plans_of_one_seed_start_from_the_same_head(make_base, make_plan, attach):
    """Bit for bit, whatever is adapted beneath it; the adapters are those of a base model without a head."""
    heads = []
    for seed in (3, 3, 4):
        for method in ("lora", "ia3", ()):
            base = make_base("bert")
            with attach(base, make_plan(base, method), seed=seed) as model:
                state = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
            heads.append(torch.cat([p.flatten() for n, p in state.items() if "modules_to_save" in n]))
    assert all(torch.equal(head, heads[0]) for head in heads[:6])
    assert all(torch.equal(head, heads[6]) for head in heads[6:])
    assert not torch.equal(heads[0], heads[6])


def test_rates_follow_the_size_of_the_inputs_and_have_bounds(bert):
    rms = dict.fromkeys(head_layers(bert), 0.5)
    usual, larger = head_rates(bert, rms), head_rates(bert, dict.fromkeys(rms, 2.0))
    assert usual.output == pytest.approx(4 * larger.output)
    assert usual.alone() == pytest.approx(tuple(4 * rate for rate in larger.alone()))
    for odd in (0.0, float("nan"), float("inf")):
        rates = head_rates(bert, dict.fromkeys(rms, odd))
        assert 0 < rates.by_name["classifier.bias"] <= 2.0
        assert rates.output <= 2.0 / (16 * 0.01)


def test_head_rate_of_a_run_follows_from_its_epochs(make_bench):
    once, often = (make_bench(full_steps=n_steps) for n_steps in (4, 400))
    n_epochs = 400 * often.batch_size / len(often.splits["train"].labels)
    assert often.head_rates.output == pytest.approx(once.head_rates.output * 4 / n_epochs)


def test_a_plan_scales_the_rate_of_its_head_and_of_nothing_else(bert, make_plan, attach, methods):
    plan, heads = make_plan(bert, "lora"), head_rates(bert, {})
    with attach(bert, plan, seed=0) as model:
        rates = [
            {
                name: group["lr"]
                for group in parameter_groups(
                    model, replace(plan, head_factor=factor), heads=heads, methods=methods
                )
                for name, parameter in model.named_parameters()
                if any(parameter is each for each in group["params"])
            }
            for factor in (1.0, 0.25)
        ]
    usual, slower = rates
    assert {slower[name] / usual[name] for name in usual if "lora_" in name} == {1.0}
    assert {slower[name] / usual[name] for name in usual if "lora_" not in name} == {0.25}


def test_rms_is_that_of_all_inputs_but_padding(base, make_batch):
    batches = [make_batch(seed=0), make_batch(seed=1, n_filler=(4, 12))]
    names = [target.name for target in base.targets if target.kind in ("linear", "conv1d")]
    seen = {name: [] for name in names}
    mask = None

    def note(name, inputs):
        inside = mask if mask.shape == inputs.shape[:2] else torch.ones(inputs.shape[:-1], dtype=torch.bool)
        seen[name].append(inputs[inside].double().flatten())

    for name in names:
        layer = base.module.get_submodule(name)
        layer.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs[0]))
    with torch.no_grad():
        for batch in batches:
            mask = batch["attention_mask"].bool()
            base.module(**batch)
    expected = {name: torch.cat(rows).square().mean().sqrt().item() for name, rows in seen.items()}
    rms = input_rms(base.module, batches, names, call=lambda module, batch: module(**batch))
    assert rms == pytest.approx(expected, rel=1e-5)
