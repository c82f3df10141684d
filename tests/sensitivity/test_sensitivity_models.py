"""Scores of other architectures and losses than text classification, against brute force by autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from toys import architectures as model_toys
from toys import topologies
from toys.sensitivity import (
    SCORES,
    ModelLoss,
    examples_of,
    gradients_of,
    mean_squares,
    run_scores,
    score_by_target,
    values_by_target,
    weights_of,
)

from autopeft.model import BaseModel
from autopeft.sensitivity._shared.gradients import normalized


def loss_of(base):
    """The model's own loss, as a task of its kind."""
    is_causal = base.name.endswith("-lm") and "t5" not in base.name
    kind = "SEQ_2_SEQ_LM" if base.name.endswith("t5-lm") else "SEQ_CLS"
    return ModelLoss("CAUSAL_LM" if is_causal else kind)


def per_example_weights(base):
    """The weights with a gradient for each example: all but those of experts in one parameter."""
    experts = {target.name for target in base.targets if target.kind == "parameter"}
    return {name: weights for name, weights in weights_of(base).items() if name not in experts}


@pytest.mark.parametrize("architecture", ["vit", "t5", "t5-lm", "gpt2-lm", "llama-lm", "moe-lm"])
def test_fisher_and_gradient_match_brute_force_on_every_kind_of_model(make_base, batch_for, architecture):
    base = make_base(architecture)
    batch, task, weights = batch_for(base), loss_of(base), per_example_weights(base)
    fisher, gradient = (
        values_by_target(base, scores)
        for scores in run_scores(["fisher", "gradient"], base, [batch], task=task).scores
    )
    expected = mean_squares(weights, base, task, [batch])
    assert {name: fisher[name] for name in weights} == pytest.approx(expected, rel=1e-4, abs=1e-12)
    # One batch alone is halved; an example's loss is the mean over its own tokens.
    examples = [
        gradients_of(weights, lambda example=example: task.loss(base.module, example))
        for example in examples_of(batch)
    ]
    products = {
        name: math.fsum(
            float((weight.detach() * sum(example[name][0] for example in half)).abs().sum()) / 6
            for half in (examples[:3], examples[3:])
        )
        for name, (weight, *_) in weights.items()
    }
    assert {name: gradient[name] for name in weights} == pytest.approx(products, rel=1e-4, abs=1e-12)


def test_experts_in_one_parameter_get_the_gradient_of_the_batch(make_base, batch_for):
    base = make_base("moe-lm")
    batch, task = batch_for(base), loss_of(base)
    batch["attention_mask"][:] = 1
    batch["labels"] = batch["input_ids"].clone()  # as many tokens in each row
    seen = run_scores(["fisher", "gradient"], base, [batch, batch], task=task)
    fisher, gradient = (values_by_target(base, scores) for scores in seen.scores)
    experts = [target.name for target in base.targets if target.kind == "parameter"]
    assert experts
    parameters = {name: [base.module.get_parameter(name)] for name in experts}
    gradients = gradients_of(parameters, lambda: task.loss(base.module, batch))
    for name, (grad,) in gradients.items():
        (parameter,) = parameters[name]
        assert fisher[name] == pytest.approx(6 * float(grad.square().sum()), rel=1e-4)
        assert gradient[name] == pytest.approx(float((parameter * grad).abs().sum()), rel=1e-4)
        assert not parameter.requires_grad


def test_scores_do_not_depend_on_the_other_scores_of_a_pass(bert, task, make_batch):
    batches = [make_batch(seed=seed) for seed in range(2)]
    together = run_scores(SCORES, bert, batches, task=task)
    alone = [run_scores([name], bert, batches, task=task).scores[0] for name in SCORES]
    assert list(together.scores) == alone
    assert together.unreachable == ()
    assert together.n_examples == together.n_asked == 12


def test_left_padding_does_not_count(make_base, task, make_batch):
    base = make_base("llama")
    right = make_batch(4, n_filler=(3, 9))
    left = {name: value.clone() for name, value in right.items()}
    for row, n in enumerate(right["attention_mask"].sum(dim=1).tolist()):
        for name in ("input_ids", "attention_mask"):
            left[name][row] = right[name][row].roll(right[name].shape[1] - n)
    of_right, of_left = (
        run_scores(["fisher", "gradient"], base, [batch], task=task).scores for batch in (right, left)
    )
    for first, second in zip(of_right, of_left, strict=True):
        assert first.values == pytest.approx(second.values, rel=1e-3)


def test_layers_that_share_their_weights_are_one_target(task):
    module = transformers.AlbertForSequenceClassification(
        transformers.AlbertConfig(
            vocab_size=50, embedding_size=8, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=20, initializer_range=0.2,
        )
    )  # fmt: skip
    base = BaseModel(module, None, name="toy albert", untrained=frozenset())
    words = torch.randint(4, 50, (4, 6), generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 1, 0])
    batch = {"input_ids": words, "attention_mask": torch.ones_like(words), "labels": labels}
    expected = mean_squares(weights_of(base), base, task, [batch])
    assert score_by_target("fisher", base, [batch], task=task) == pytest.approx(expected, rel=1e-4)


def test_norms_that_multiply_with_one_plus_weight_are_measured_right():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8))

        def forward(self, x):
            return x / x.norm(dim=-1, keepdim=True) * (1 + self.weight)

    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(normalized(Shifted(), x), x / x.norm(dim=-1, keepdim=True))


SAMPLE = [
    *(("deberta-v2", "SEQ_CLS"), ("bart", "SEQ_2_SEQ_LM"), ("phi3", "CAUSAL_LM"), ("bert", "TOKEN_CLS")),
    ("opt", "SEQ_CLS"),  # whose feed-forward layers see (B T, in)
]
OTHERS = [
    *((name, "SEQ_CLS") for name in ("distilbert", "modernbert")),
    *((name, "CAUSAL_LM") for name in ("gpt_neox", "qwen3_moe", "mpt")),
]


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [*SAMPLE, *(pytest.param(*case, marks=pytest.mark.nightly) for case in OTHERS)],
)
def test_fisher_matches_brute_force_whatever_the_layers_see(architecture, kind):
    base = model_toys.build(architecture, kind)
    batch, task = model_toys.make_inputs(kind), ModelLoss(kind)
    if kind == "TOKEN_CLS":
        batch["labels"] = batch["labels"] % 2
    seen = run_scores(["fisher"], base, [batch, batch], task=task)
    values = values_by_target(base, seen.scores[0])
    expected = mean_squares(per_example_weights(base), base, task, [batch])
    for name, value in expected.items():
        if name in seen.unreachable:
            assert value == 0, name
        else:
            assert values[name] == pytest.approx(value, rel=1e-3, abs=1e-10), name
    assert np.isfinite(seen.scores[0].values).all()


def test_a_norm_with_a_gate_is_not_scored_and_the_others_are() -> None:
    module = topologies.build("qwen3_5_text", device="cpu").eval()
    base = BaseModel(module, None, name="toy", untrained=frozenset())
    gated = "model.layers.0.linear_attn.norm"
    assert gated in [target.name for target in base.targets]
    tokens = torch.arange(4, 18).reshape(2, 7)
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}
    scores = run_scores(["fisher"], base, [batch], task=ModelLoss("CAUSAL_LM"))
    assert gated in scores.unreachable
    for score in scores.scores:
        values = dict(zip([target.name for target in base.targets], score.values, strict=True))
        assert values["model.layers.0.input_layernorm"] > 0
