"""Inputs of linear maps: their principal directions, against numpy's SVD, and their root mean square."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autopeft.model import input_statistics
from autopeft.model.input_statistics import input_directions, input_rms, leading_eigenvectors
from autopeft.records import Fidelity, Status

RANK = 3


def inputs_of(module, name, batches):
    """Every token's input of one map, padding left out, shape (N, in_features)."""
    rows = []
    for batch in batches:
        seen = []
        handle = module.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, seen=seen: seen.append(inputs[0])
        )
        with torch.no_grad():
            forward(module, batch)
        handle.remove()
        mask = batch["attention_mask"].bool()
        (inputs,) = seen
        rows.append(inputs[mask] if inputs.shape[:2] == mask.shape else inputs.reshape(-1, inputs.shape[-1]))
    return torch.cat(rows).double().numpy()


def forward(module, batch):
    return module(**{key: value for key, value in batch.items() if key != "labels"})


def test_directions_are_the_right_singular_vectors_of_the_inputs(base, make_batch):
    batches = [make_batch(seed=0), make_batch(seed=1, n_filler=(4, 12))]
    sites = [site for site in base.sites if site.kind in ("linear", "conv1d")]
    directions = input_directions(base.module, batches, {site.name: RANK for site in sites}, call=forward)
    for site in sites:
        rows = directions[site.name].double().numpy()
        inputs = inputs_of(base.module, site.name, batches)
        values = np.linalg.svd(inputs, compute_uv=False)
        # As much of the inputs as any rows of that rank can hold (Eckart and Young), and orthonormal.
        assert np.linalg.norm(inputs @ rows.T) ** 2 == pytest.approx((values[:RANK] ** 2).sum(), rel=1e-4)
        np.testing.assert_allclose(rows @ rows.T, np.eye(RANK), atol=1e-5)
        assert (np.take_along_axis(rows, np.abs(rows).argmax(1)[:, None], 1) > 0).all()


def test_rms_is_that_of_all_inputs_but_padding(base, make_batch):
    batches = [make_batch(seed=0), make_batch(seed=1, n_filler=(4, 12))]
    names = [site.name for site in base.sites if site.kind in ("linear", "conv1d")]
    rms = input_rms(base.module, batches, names, call=lambda module, batch: module(**batch))
    for name in names:
        inputs = inputs_of(base.module, name, batches)
        assert rms[name] == pytest.approx(np.sqrt((inputs**2).mean()), rel=1e-5)


def test_iteration_finds_the_directions_of_wide_maps_too():
    torch.manual_seed(0)
    scales = torch.linspace(0, 5, 1100).exp().flip(0)
    rows = torch.randn(1500, 1100) * scales
    square = rows.T @ rows
    expected = np.linalg.svd(rows.double().numpy(), compute_uv=False)[:RANK] ** 2
    eigenvectors = leading_eigenvectors(square, RANK)
    assert (rows @ eigenvectors.T).square().sum(0).double().numpy() == pytest.approx(expected, rel=1e-3)
    assert torch.equal(eigenvectors, leading_eigenvectors(square, RANK))


class OneMap(torch.nn.Module):
    def __init__(self, n_inputs):
        super().__init__()
        self.map = torch.nn.Linear(n_inputs, 2)

    def forward(self, x):
        return self.map(x)


@pytest.mark.parametrize("n_inputs", [40, 1100])
def test_autocast_does_not_round_the_sums(n_inputs):
    torch.manual_seed(0)
    module, batches = OneMap(n_inputs), [{"x": torch.randn(2, 30, n_inputs)} for _ in range(2)]
    plain = input_directions(module, batches, {"map": RANK}, call=forward)["map"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(input_directions(module, batches, {"map": RANK}, call=forward)["map"], plain)


def test_directions_are_the_same_where_memory_has_room_for_one_map_at_a_time(bert, make_batch, monkeypatch):
    batches = [make_batch(seed=0), make_batch(seed=1)]
    ranks = {site.name: RANK for site in bert.sites if site.kind == "linear"}
    whole = input_directions(bert.module, batches, ranks, call=forward)
    passes = []
    hook = bert.module.register_forward_pre_hook(lambda *_: passes.append(1))
    monkeypatch.setattr(input_statistics, "free_bytes", lambda device: 0)
    parts = input_directions(bert.module, batches, ranks, call=forward)
    hook.remove()
    assert len(passes) == len(batches) * len(ranks)
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)


def test_eva_starts_from_the_inputs_and_leaves_the_outputs_and_the_count_unchanged(make_bench, make_plan):
    bench = make_bench()
    plan = make_plan(bench.base, "lora", rank=RANK, init="eva")
    default = make_plan(bench.base, "lora", rank=RANK)
    assert plan.trainable_params == default.trainable_params
    fidelity = Fidelity(split="search", train_steps=3, train_examples=24, eval_examples=24, seed=0)
    seen, again, other = (bench.measure(tested, fidelity) for tested in (plan, plan, default))
    assert seen.status is Status.COMPLETE
    assert seen.loss == again.loss != other.loss
    directions = bench._eva_directions(plan, bench.compute)
    assert set(directions) == {adapter.site for adapter in plan.adapters}
    assert all(rows.shape[0] == RANK for rows in directions.values())
