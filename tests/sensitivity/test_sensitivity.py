"""The sensitivity pass: other architectures and losses, halves, bad input, and the model left as found."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import transformers
from scipy import stats
from torch import nn
from toys import architectures as model_toys
from toys.bases import state_of

from autopeft.errors import DataError, SpecError
from autopeft.extension import discover
from autopeft.model import BaseModel
from autopeft.sensitivity import MEASURED_KINDS, measure
from autopeft.sensitivity.parts.gradients import normalise

SCORES = discover("autopeft.sensitivity")
LOOKING = [name for name in SCORES if SCORES[name].labels != "none"]


@dataclass(frozen=True)
class OwnLoss:
    """A task whose loss is the model's own: of images, of the next token, of a target text."""

    peft_task_type: str = "SEQ_CLS"

    def loss(self, model, batch):
        return model(**batch).loss


def task_for(base):
    is_causal = base.name.endswith("-lm") and "t5" not in base.name
    return OwnLoss("CAUSAL_LM" if is_causal else "SEQ_2_SEQ_LM" if base.name.endswith("t5-lm") else "SEQ_CLS")


def run(names, base, batches, *, task=None, seed=0, **settings):
    parts = [SCORES[name] for name in names]
    return measure(
        parts, base.module, batches, base.sites, task=task or task_for(base), seed=seed, **settings
    )


def by_site(base, scores):
    return dict(zip((site.name for site in base.sites), scores.values, strict=True))


def single_rows(batch):
    n = len(batch["labels"])
    return [{name: value[i : i + 1] for name, value in batch.items()} for i in range(n)]


def gradients(base, task, batch):
    """Weight (and of norms bias) gradients by site, by autograd of the mean loss."""
    owners = {}
    for site in base.sites:
        if site.kind in ("linear", "conv1d", "norm"):
            module = base.module.get_submodule(site.name)
            with_bias = site.kind == "norm" and site.has_bias
            owners[site.name] = [module.weight, module.bias] if with_bias else [module.weight]
        elif site.kind == "parameter":
            holder, _, own = site.name.rpartition(".")
            owners[site.name] = [getattr(base.module.get_submodule(holder), own)]
    flat = [p for own in owners.values() for p in own]
    for p in flat:
        p.requires_grad_(True)
    grads = iter(torch.autograd.grad(task.loss(base.module, batch), flat, materialize_grads=True))
    for p in flat:
        p.requires_grad_(False)
    return {name: [next(grads) for _ in own] for name, own in owners.items()}


def expected_fisher(base, task, batch):
    rows = [gradients(base, task, row) for row in single_rows(batch)]
    return {
        name: math.fsum(float(g.square().sum()) for row in rows for g in row[name]) / len(rows)
        for name in rows[0]
    }


def is_expert(base, name):
    return any(site.name == name and site.kind == "parameter" for site in base.sites)


@pytest.mark.parametrize("architecture", ["vit", "t5", "t5-lm", "gpt2-lm", "llama-lm", "moe-lm"])
def test_fisher_and_gradient_match_brute_force_on_every_kind_of_model(make_base, batch_for, architecture):
    base = make_base(architecture)
    batch, task = batch_for(base), task_for(base)
    fisher, gradient = run(["fisher", "gradient"], base, [batch]).scores
    expected = expected_fisher(base, task, batch)
    found = by_site(base, fisher)
    maps = [name for name in expected if not is_expert(base, name)]
    assert {name: found[name] for name in maps} == pytest.approx(
        {name: expected[name] for name in maps}, rel=1e-4, abs=1e-12
    )
    # One batch alone is halved; an example's loss is the mean over its own tokens.
    parts = [single_rows(batch)[:3], single_rows(batch)[3:]]
    products = dict.fromkeys(expected, 0.0)
    for rows in parts:
        summed = [gradients(base, task, row) for row in rows]
        for name in maps:
            weight = base.module.get_submodule(name).weight.detach()
            products[name] += float((weight * sum(own[name][0] for own in summed)).abs().sum()) / 6
    found = by_site(base, gradient)
    assert {name: found[name] for name in maps} == pytest.approx(
        {name: products[name] for name in maps}, rel=1e-4, abs=1e-12
    )


def test_experts_in_one_parameter_get_the_gradient_of_the_batch(make_base, batch_for):
    base = make_base("moe-lm")
    batch, task = batch_for(base), task_for(base)
    batch["attention_mask"][:] = 1
    batch["labels"] = batch["input_ids"].clone()  # as many tokens in each row
    fisher, gradient, spectrum = run(["fisher", "gradient", "spectrum"], base, [batch, batch]).scores
    own = gradients(base, task, batch)
    experts = [site.name for site in base.sites if site.kind == "parameter"]
    assert experts
    for name in experts:
        holder, _, word = name.rpartition(".")
        parameter = getattr(base.module.get_submodule(holder), word).detach()
        grad = own[name][0]
        assert by_site(base, fisher)[name] == pytest.approx(6 * float(grad.square().sum()), rel=1e-4)
        assert by_site(base, gradient)[name] == pytest.approx(float((parameter * grad).abs().sum()), rel=1e-4)
        assert by_site(base, spectrum)[name] == 0.0
        assert not parameter.requires_grad
    assert "spectrum does not measure" in " ".join(run(["spectrum"], base, [batch, batch]).notes)


def test_all_scores_run_together_and_say_the_same_as_alone(bert, task, make_batch):
    batches = [make_batch(seed=seed) for seed in range(2)]
    together = run(list(SCORES), bert, batches, task=task)
    alone = [run([name], bert, batches, task=task).scores[0] for name in SCORES]
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
    first, second = (
        run(["fisher", "activation"], base, [batch], task=task).scores for batch in (right, left)
    )
    for one, other in zip(first, second, strict=True):
        assert one.values == pytest.approx(other.values, rel=1e-3)


def test_layers_that_share_their_weights_are_one_site(task):
    module = transformers.AlbertForSequenceClassification(
        transformers.AlbertConfig(
            vocab_size=50, embedding_size=8, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=20, initializer_range=0.2,
        )
    )  # fmt: skip
    base = BaseModel(module, None, name="toy albert", untrained=frozenset())
    words = torch.randint(4, 50, (4, 6), generator=torch.Generator().manual_seed(0))
    batch = {
        "input_ids": words,
        "attention_mask": torch.ones_like(words),
        "labels": torch.tensor([0, 1, 1, 0]),
    }
    (fisher,) = run(["fisher"], base, [batch], task=task).scores
    expected = expected_fisher(base, task, batch)
    assert by_site(base, fisher) | expected == pytest.approx(by_site(base, fisher), rel=1e-4)


def test_norms_that_multiply_with_one_plus_weight_are_measured_right():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8))

        def forward(self, x):
            return x / x.norm(dim=-1, keepdim=True) * (1 + self.weight)

    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(normalise(Shifted(), x), x / x.norm(dim=-1, keepdim=True))


# Halves, and when to stop.


def test_halves_are_ranked_against_each_other(bert, task, make_batch):
    batches = [make_batch(seed=seed) for seed in range(4)]
    (own,) = run(["fisher"], bert, batches, task=task).scores
    first, second = (
        run(["fisher"], bert, half, task=task).scores[0] for half in (batches[::2], batches[1::2])
    )
    measured = [i for i, site in enumerate(bert.sites) if site.kind in MEASURED_KINDS]
    ranks = [[half.values[i] for i in measured] for half in (first, second)]
    assert own.split_half == pytest.approx(stats.spearmanr(*ranks).statistic)


def test_one_batch_alone_is_halved_and_one_example_has_no_halves(bert, task, make_batch):
    (whole,) = run(["fisher"], bert, [make_batch()], task=task).scores
    (lone,) = run(["fisher"], bert, [make_batch(1)], task=task).scores
    assert whole.split_half is not None
    assert whole.n_examples == 6
    assert lone.split_half is None


def test_it_stops_by_itself_where_the_halves_agree(bert, task, make_batch):
    made = []
    batches = (made.append(1) or make_batch(16, seed=0) for _ in range(40))  # halves that agree at once
    found = run(["fisher", "random"], bert, batches, task=task)
    assert found.n_examples == 64
    assert [score.n_examples for score in found.scores] == [64, 0]
    assert len(made) == 4


def test_it_goes_on_where_more_agreement_is_asked_than_there_can_be(bert, task, make_batch):
    batches = (make_batch(16, seed=0) for _ in range(6))
    assert run(["fisher"], bert, batches, task=task, enough=1.1).n_examples == 96


# Bad input, and what a pass leaves.


class Broken:
    """A task that fails at its second batch, in one way or another."""

    peft_task_type = "SEQ_CLS"

    def __init__(self, task, *, error=None, factor=1.0):
        self._task, self._error, self._factor, self._n = task, error, factor, 0

    def loss(self, model, batch):
        self._n += 1
        if self._n == 2 and self._error:
            raise self._error
        return self._task.loss(model, batch) * (self._factor if self._n == 2 else 1.0)


@pytest.mark.parametrize("names", [LOOKING, ["activation"]], ids=["all", "forward only"])
def test_model_is_left_as_found_after_an_error(make_base, task, make_batch, names):
    base = make_base("bert")
    base.module.train()
    base.module.bert.pooler.eval()
    base.module.bert.pooler.dense.weight.requires_grad_(True)
    before, digest = state_of(base.module), base.sha256()
    with pytest.raises(ZeroDivisionError):
        run(names, base, [make_batch(seed=i) for i in range(3)], task=Broken(task, error=ZeroDivisionError()))
    assert (state_of(base.module), base.sha256()) == (before, digest)


def test_loss_that_is_not_finite_names_the_batch(bert, task, make_batch):
    batches = [make_batch(seed=i) for i in range(3)]
    with pytest.raises(DataError, match=r"loss of batch 2 \(6 examples\) is nan.*Check the texts"):
        run(["fisher"], bert, batches, task=Broken(task, factor=float("nan")))


def test_weight_that_is_not_finite_is_named(make_base, task, make_batch):
    base = make_base("bert")
    name = "bert.encoder.layer.1.attention.self.query.weight"
    with torch.no_grad():
        base.module.get_parameter(name)[0, 0] = float("nan")
    with pytest.raises(DataError, match=rf"loss of batch 1 \(6 examples\) is nan.*{name} of the base model"):
        run(["fisher"], base, [make_batch(), make_batch()], task=task)


def test_score_that_is_not_finite_names_the_site(bert, task, make_batch):
    batches = [make_batch(seed=i) for i in range(3)]
    with pytest.raises(SpecError, match=r"score fisher is (inf|nan) at bert\..*fp32"):
        run(["fisher"], bert, batches, task=Broken(task, factor=1e30))


class Small:
    """A task that holds at most so many examples at once, as a small memory would."""

    peft_task_type = "SEQ_CLS"

    def __init__(self, task, *, most):
        self._task, self._most = task, most

    def loss(self, model, batch):
        if len(batch["labels"]) > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return self._task.loss(model, batch)


class _Exhausted(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


def test_batch_that_does_not_fit_is_seen_in_parts(bert, task, make_batch):
    batches = [make_batch(seed=i) for i in range(2)]
    names = ["fisher", "lora_fisher", "spectrum", "activation"]
    found = run(names, bert, batches, task=Small(task, most=2))
    assert found.n_examples == 12
    assert [note for note in found.notes if "Memory" in note] == [
        "Memory ran out at 6 examples at once; went on with 3.",
        "Memory ran out at 3 examples at once; went on with 2.",
    ]
    for own, whole in zip(found.scores, run(names, bert, batches, task=task).scores, strict=True):
        assert own.values == pytest.approx(whole.values, rel=1e-4)


def test_what_was_counted_before_memory_ran_out_is_not_counted_again(bert, task, make_batch):
    batches = [make_batch(seed=i) for i in range(2)]
    names = ["fisher", "lora_fisher", "spectrum", "activation"]
    limited = Halting(bert, most=3)
    with limited:
        found = run(names, bert, batches, task=task)
    assert limited.n_halted == 1
    for own, whole in zip(found.scores, run(names, bert, batches, task=task).scores, strict=True):
        assert own.values == pytest.approx(whole.values, rel=1e-4)


class Halting:
    """Lets memory run out in the backward pass, between the second layer and the first."""

    def __init__(self, base, *, most):
        self._layer, self._most, self.n_halted = base.module.bert.encoder.layer[0], most, 0

    def __enter__(self):
        self._hook = self._layer.register_forward_hook(self._watch)
        return self

    def __exit__(self, *error):
        self._hook.remove()

    def _watch(self, module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        if len(hidden) > self._most and hidden.requires_grad:
            self.n_halted += 1
            return _Exhausted.apply(hidden) if hidden is output else (_Exhausted.apply(hidden), *output[1:])
        return None


def test_experts_whose_gradient_does_not_fit_are_left_out(make_base, batch_for):
    base = make_base("moe-lm")
    batch, experts = batch_for(base), [site.name for site in base.sites if site.kind == "parameter"]

    class Tight(OwnLoss):
        def loss(self, model, batch):
            if any(parameter.requires_grad for parameter in model.parameters()):
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().loss(model, batch)

    found = run(["fisher"], base, [batch, batch], task=Tight("CAUSAL_LM"))
    assert found.unreachable == tuple(experts)
    assert found.notes[-1] == "Memory ran out at one example: experts in one parameter score 0."
    values = by_site(base, found.scores[0])
    whole = by_site(base, run(["fisher"], base, [batch, batch]).scores[0])
    for site in base.sites:
        assert values[site.name] == pytest.approx(
            0.0 if site.kind == "parameter" else whole[site.name], rel=1e-3
        )


def test_one_example_that_does_not_fit_is_an_error(bert, task, make_batch):
    with pytest.raises(SpecError, match=r"One example of batch 1 does not fit.*lower --max-length"):
        run(["fisher"], bert, [make_batch(2), make_batch(2)], task=Small(task, most=0))


def test_site_without_a_gradient_path_is_told(bert, make_batch):
    class FirstLayerOnly:
        peft_task_type = "SEQ_CLS"

        def loss(self, model, batch):
            features = {name: value for name, value in batch.items() if name != "labels"}
            return model(**features, output_hidden_states=True).hidden_states[1].square().mean()

    found = run(["fisher", "activation"], bert, [make_batch(), make_batch()], task=FirstLayerOnly())
    beyond = [
        s.name
        for s in bert.sites
        if s.kind in MEASURED_KINDS and (".layer.1." in s.name or "pooler" in s.name)
    ]
    assert set(found.unreachable) == set(beyond)
    values = by_site(bert, found.scores[0])
    assert all((values[s.name] == 0) == (s.name in beyond) for s in bert.sites if s.kind in MEASURED_KINDS)


def test_labels_that_are_no_classes_cannot_be_sampled(make_base):
    class Regression:
        peft_task_type = "SEQ_CLS"

        def loss(self, model, batch):
            logits = model(input_ids=batch["input_ids"]).logits
            return (logits[:, 0] - batch["labels"]).square().mean()

    batch = {"input_ids": torch.randint(4, 9, (4, 5)), "labels": torch.rand(4)}
    with pytest.raises(
        SpecError, match=r"draws a class per label.*the task has no `draw_labels`; use the score fisher"
    ):
        run(["fisher_sampled"], make_base("bert"), [batch, batch], task=Regression())
    assert run(["fisher"], make_base("bert"), [batch, batch], task=Regression()).n_examples == 8


def test_held_bytes_are_counted_and_time_is_told(bert, task, make_batch):
    found = run(["fisher"], bert, [make_batch(seed=i) for i in range(2)], task=task)
    batch = make_batch(seed=0)
    n_tokens = batch["input_ids"].numel()
    n_inputs = 4 * n_tokens * 16  # of the smallest inputs, in bytes; two layers hold more than four such each
    assert found.peak_bytes > 8 * n_inputs
    assert found.seconds > 0
    assert run(["uniform"], bert, [], task=task).peak_bytes == 0


def test_what_a_score_gathers_counts_as_memory(bert, task, make_batch):
    batches = [make_batch(seed=i) for i in range(2)]
    fisher, spectrum = (run([name], bert, batches, task=task).peak_bytes for name in ("fisher", "spectrum"))
    numbers = 0  # such small maps are summed up whole; a norm's weight and bias too, all once for each half
    for site in bert.sites:
        if site.kind == "norm":
            numbers += 2 * site.out_features
        elif site.kind == "linear":
            numbers += site.in_features * site.out_features
    sums_of_fisher = 2 * 8 * len([site for site in bert.sites if site.kind in MEASURED_KINDS])
    assert spectrum - fisher == 2 * 4 * numbers - sums_of_fisher


# Models whose layers see other shapes.


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        ("deberta-v2", "SEQ_CLS"),
        ("distilbert", "SEQ_CLS"),
        ("modernbert", "SEQ_CLS"),
        ("xlnet", "SEQ_CLS"),
        ("bart", "SEQ_2_SEQ_LM"),
        ("gpt_neox", "CAUSAL_LM"),
        ("phi3", "CAUSAL_LM"),
        ("qwen3_moe", "CAUSAL_LM"),
        ("mpt", "CAUSAL_LM"),
        ("bert", "TOKEN_CLS"),
    ],
)
def test_fisher_matches_brute_force_whatever_the_layers_see(architecture, kind):
    base = model_toys.build(architecture, kind)
    batch = model_toys.make_inputs(kind)
    if kind == "TOKEN_CLS":
        batch["labels"] = batch["labels"] % 2
    task = OwnLoss(kind)
    found = run(["fisher"], base, [batch, batch], task=task)
    expected = expected_fisher(base, task, batch)
    values = by_site(base, found.scores[0])
    for name, value in expected.items():
        if not is_expert(base, name) and name not in found.unreachable:
            assert values[name] == pytest.approx(value, rel=1e-3, abs=1e-10), name
    assert all(expected[name] == 0 for name in found.unreachable if name in expected)
    assert np.isfinite(found.scores[0].values).all()
